#pragma once

// What the standard streams are connected to. The only header here that asks the operating system.

#include <cstddef>
#include <cstdlib>
#include <string>
#include <string_view>

#if defined(_WIN32)
#include <io.h>
#else
#include <sys/ioctl.h>
#include <unistd.h>
#endif

namespace support {

/// Whether stderr is a terminal that understands `\r` and "erase to the end of the line".
inline bool stderr_is_terminal() {
    const char* term = std::getenv("TERM");
#if defined(_WIN32)
    return _isatty(2) != 0 && term != nullptr;  // a console without TERM may not know the sequences
#else
    return ::isatty(2) != 0 && term != nullptr && std::string_view(term) != "dumb";
#endif
}

/// Columns of the terminal behind stderr, 80 where nobody knows.
inline std::size_t terminal_width() {
#if !defined(_WIN32)
    winsize size{};
    if (::ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
#endif
    return 80;
}

/// Whether the terminal shows UTF-8; it decides between two looks of the bar.
inline bool terminal_has_utf8() {
    for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
        const char* value = std::getenv(name);
        if (value == nullptr || *value == '\0') continue;
        const std::string_view text(value);
        const auto has = [&](std::string_view part) { return text.find(part) != std::string_view::npos; };
        return has("UTF-8") || has("utf-8") || has("UTF8") || has("utf8");
    }
    return false;
}

}  // namespace support

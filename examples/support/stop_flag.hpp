#pragma once

// Ctrl-C as a wish: the first one asks the program to finish its step, the second one ends it.

#include <atomic>
#include <csignal>

namespace support {

/// While one lives, SIGINT and SIGTERM only set a flag. There may be one at a time.
class stop_flag {
public:
    stop_flag() {
        received() = 0;
        old_interrupt_ = std::signal(SIGINT, &on_signal);
        old_terminate_ = std::signal(SIGTERM, &on_signal);
    }

    ~stop_flag() {
        std::signal(SIGINT, old_interrupt_ == SIG_ERR ? SIG_DFL : old_interrupt_);
        std::signal(SIGTERM, old_terminate_ == SIG_ERR ? SIG_DFL : old_terminate_);
    }

    stop_flag(const stop_flag&) = delete;
    stop_flag& operator=(const stop_flag&) = delete;

    bool requested() const noexcept { return received() != 0; }
    explicit operator bool() const noexcept { return requested(); }

    /// The signal that came, 0 before: a program that was stopped ends with status 128 + signal.
    int signal() const noexcept { return received(); }

private:
    using handler = void (*)(int);

    static std::atomic<int>& received() noexcept {
        static_assert(std::atomic<int>::is_always_lock_free, "a signal handler must not take a lock");
        static constinit std::atomic<int> number{0};
        return number;
    }

    static void on_signal(int number) {
        received() = number;
        std::signal(SIGINT, SIG_DFL);  // the next one is not caught any more
        std::signal(SIGTERM, SIG_DFL);
    }

    handler old_interrupt_ = SIG_DFL;
    handler old_terminate_ = SIG_DFL;
};

}  // namespace support

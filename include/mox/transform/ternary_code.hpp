#pragma once

// A ternary vector as few bytes (ComPEFT, arXiv 2311.13171): the gaps between its entries in Golomb's code
// for a power of two ("Run-length encodings", IEEE Trans. Inf. Theory 12, 1966; Rice's form), a sign bit
// each.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <mox/transform/compeft.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

struct ternary_header {
    std::uint64_t size = 0, entries = 0;
    double scale = 0;
    std::uint64_t low_bits = 0;  ///< of a gap, written as they are; the rest of it is counted in ones
};

}  // namespace detail

/// 32 bytes and about the bits of mox::ternary_bound. In the byte order of the machine.
inline std::vector<std::uint8_t> encode(const ternary& t) {
    std::vector<std::uint64_t> gaps;
    std::vector<bool> plus;
    std::uint64_t gap = 0;
    for (index_t i = 0; i < t.size(); ++i, ++gap) {
        if (t.sign(i) == 0) continue;
        gaps.push_back(gap);
        plus.push_back(t.sign(i) > 0);
        gap = static_cast<std::uint64_t>(-1);
    }
    detail::ternary_header head{static_cast<std::uint64_t>(t.size()), gaps.size(), t.scale(), 0};
    std::uint64_t fewest = ~std::uint64_t{0};
    for (std::uint64_t low = 0; low < 40; ++low) {
        std::uint64_t bits = 0;
        for (const std::uint64_t g : gaps) bits += (g >> low) + 2 + low;
        if (bits < fewest) {
            fewest = bits;
            head.low_bits = low;
        }
    }
    std::vector<std::uint8_t> bytes(sizeof(head));
    std::memcpy(bytes.data(), &head, sizeof(head));
    unsigned at = 8;
    const auto write = [&](bool bit) {
        if (at == 8) {
            bytes.push_back(0);
            at = 0;
        }
        if (bit) bytes.back() = static_cast<std::uint8_t>(bytes.back() | 1u << at);
        ++at;
    };
    for (std::size_t i = 0; i < gaps.size(); ++i) {
        write(plus[i]);
        for (std::uint64_t n = gaps[i] >> head.low_bits; n > 0; --n) write(true);
        write(false);
        for (std::uint64_t b = 0; b < head.low_bits; ++b) write((gaps[i] >> b & 1) != 0);
    }
    return bytes;
}

/// What encode was given. Throws mox::error when the bytes are not those of a ternary vector, and before any
/// memory is taken when it has more than `largest` entries: a few bytes can claim to be of any length.
inline ternary decode_ternary(std::span<const std::uint8_t> bytes, index_t largest = index_t{1} << 33) {
    constexpr std::string_view call = "mox::decode_ternary";
    constexpr std::string_view broken =
        "argument 'bytes' must be what mox::encode gave, but is cut or damaged";
    detail::ternary_header head;
    check::that(bytes.size() >= sizeof(head), call, broken);
    std::memcpy(&head, bytes.data(), sizeof(head));
    // Every entry has two bits or more.
    check::that(head.low_bits < 40 && head.entries <= head.size &&
                    head.entries <= 4 * (bytes.size() - sizeof(head)) && std::isfinite(head.scale),
                call, broken);
    check::that(head.size <= static_cast<std::uint64_t>(std::max<index_t>(largest, 0)), call,
                "the vector has " + std::to_string(head.size) +
                    " entries, more than argument 'largest' allows");
    std::size_t at = 8 * sizeof(head);
    const auto read = [&] {
        check::that(at < 8 * bytes.size(), call, broken);
        const bool bit = (bytes[at / 8] >> at % 8 & 1) != 0;
        ++at;
        return bit;
    };
    ternary t(static_cast<index_t>(head.size), head.scale);
    std::uint64_t next = 0;
    for (std::uint64_t i = 0; i < head.entries; ++i) {
        const int sign = read() ? 1 : -1;
        std::uint64_t gap = 0;
        while (read()) ++gap;
        check::that(gap <= head.size >> head.low_bits, call, broken);
        gap <<= head.low_bits;
        for (std::uint64_t b = 0; b < head.low_bits; ++b) gap |= static_cast<std::uint64_t>(read()) << b;
        next += gap;
        check::that(next < head.size, call, broken);
        t.set(static_cast<index_t>(next++), sign);
    }
    check::that(divide_up(static_cast<index_t>(at), 8) == ssize_of(bytes), call, broken);
    return t;
}

}  // namespace mox::inline MOX_ABI

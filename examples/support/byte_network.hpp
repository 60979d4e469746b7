#pragma once

// The byte-level language models of the examples: their size, their type, the windows of a text they read,
// and their loss on a text.

#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

#include <mox/mox.hpp>

namespace support::byte_network {

inline constexpr mox::index_t width = 128, hidden = 384, blocks = 4;
inline constexpr mox::index_t sequence = 256, sequences = 4;  // 1024 bytes a step
inline constexpr mox::attention_spec heads{.width = width, .heads = 4};

template <class FeedForward>
using block = mox::stack<mox::residual<mox::rms_norm<width>, mox::attention<heads, mox::mask::causal>>,
                         mox::residual<mox::rms_norm<width>, FeedForward>>;

template <class Body>
using language_model =
    mox::stack<mox::embedding<256, width>, Body, mox::rms_norm<width>, mox::linear<width, 256>>;

/// A window of the text and the byte after each of its bytes.
inline void read_window(std::span<const unsigned char> text, std::size_t begin, mox::row_t* ids,
                        mox::row_t* targets) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(sequence); ++i) {
        ids[i] = text[begin + i];
        targets[i] = text[begin + i + 1];
    }
}

/// Window `number` of an endless series anywhere in the text.
inline void draw_window(std::span<const unsigned char> text, const mox::random_stream& numbers,
                        std::uint64_t number, mox::row_t* ids, mox::row_t* targets) {
    const std::uint64_t room = text.size() - static_cast<std::size_t>(sequence) - 1;
    // 64 random bits, so that long texts are sampled evenly.
    const auto b = numbers.block(number);
    const std::uint64_t wide = std::uint64_t{b[0]} << 32 | b[1];
    read_window(text, static_cast<std::size_t>(wide % (room + 1)), ids, targets);
}

/// Bits per byte on windows spread evenly over the text, with the causal rules of decoding. `look()` is
/// called behind every batch.
template <class Net, class Look>
double validate(const mox::params<Net>& weights, mox::tape<Net>& tape, std::span<const unsigned char> text,
                mox::index_t windows, Look&& look) {
    const auto length = static_cast<std::size_t>(sequence);
    const std::size_t room = text.size() - length - 1;
    std::vector<mox::row_t> ids(length * static_cast<std::size_t>(sequences)), targets(ids.size());
    const auto batch = mox::batch::equal(sequences, sequence);
    double sum = 0;
    const mox::index_t rounds = windows / sequences;
    for (mox::index_t r = 0; r < rounds; ++r) {
        for (mox::index_t s = 0; s < sequences; ++s) {
            const auto window = static_cast<std::size_t>(r * sequences + s);
            read_window(text, room * window / static_cast<std::size_t>(windows), ids.data() + s * sequence,
                        targets.data() + s * sequence);
        }
        const auto logits = mox::infer<Net>(weights, ids, batch, tape);
        sum += static_cast<double>(mox::cross_entropy(logits, targets, {}, tape.exec()));
        look();
    }
    return sum / static_cast<double>(rounds) / std::numbers::ln2;
}

template <class Net>
double validate(const mox::params<Net>& weights, mox::tape<Net>& tape, std::span<const unsigned char> text,
                mox::index_t windows) {
    return validate<Net>(weights, tape, text, windows, [] {});
}

}  // namespace support::byte_network

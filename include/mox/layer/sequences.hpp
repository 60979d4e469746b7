#pragma once

// Ragged batches: sequences of any length one after the other, and the position of every row in its own.

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <mox/core/error.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// What layers see of a batch. A gathered subset of rows is again such a batch, with its rows' original
/// positions: that is all mixture of depths needs.
struct sequence_view {
    const row_t* offsets = nullptr;  ///< sequences + 1 values, from 0 to rows
    index_t sequences = 0;
    const row_t* positions = nullptr;  ///< one per row
    const row_t* token = nullptr;      ///< row in the whole batch, or null when this is the whole batch
    const row_t* labels = nullptr;     ///< one per sequence (task, adapter), or null
    matrix_view<const std::uint8_t> allowed = {};  ///< sequences x experts, 0 for those not allowed; or empty

    index_t rows() const noexcept { return sequences == 0 ? 0 : static_cast<index_t>(offsets[sequences]); }
    index_t begin(index_t s) const noexcept { return static_cast<index_t>(offsets[s]); }
    index_t length(index_t s) const noexcept { return static_cast<index_t>(offsets[s + 1] - offsets[s]); }
    index_t longest() const noexcept {
        index_t best = 0;
        for (index_t s = 0; s < sequences; ++s) best = std::max(best, length(s));
        return best;
    }
    /// Row number in the whole batch.
    row_t token_of(index_t row) const noexcept { return token ? token[row] : static_cast<row_t>(row); }
};

/// A batch of sequences: how the rows given to `forward` are cut.
class batch {
public:
    batch() = default;

    /// `count` sequences of the same length.
    static batch equal(index_t count, index_t length) {
        check::that(count >= 0 && length >= 0, "mox::batch::equal", "arguments must not be negative");
        batch b;
        b.assign_equal(count, length);
        return b;
    }

    /// Sequences of the given lengths; a length may be 0.
    static batch ragged(std::span<const index_t> lengths) {
        batch b;
        b.offsets_.assign(1, 0);
        for (index_t n : lengths) {
            check::that(n >= 0, "mox::batch::ragged", "a length must not be negative");
            b.append(n);
        }
        return b;
    }
    static batch ragged(std::initializer_list<index_t> lengths) {
        return ragged(std::span<const index_t>(lengths.begin(), lengths.size()));
    }

    index_t rows() const noexcept { return static_cast<index_t>(positions_.size()); }
    index_t sequences() const noexcept {
        return offsets_.empty() ? 0 : static_cast<index_t>(offsets_.size()) - 1;
    }
    sequence_view view() const noexcept {
        static constexpr row_t none[1] = {0};
        return {offsets_.empty() ? none : offsets_.data(),  sequences(), positions_.data(), nullptr,
                labels_.empty() ? nullptr : labels_.data(), allowed()};
    }

    /// What the host program knows of each sequence: its task, or the adapter it is for (route::by_label,
    /// balance::localised).
    batch& with_labels(std::span<const row_t> labels) {
        check::size("mox::batch::with_labels", "labels", "values, one per sequence", sequences(),
                    ssize_of(labels));
        labels_.assign(labels.begin(), labels.end());
        return *this;
    }
    batch& with_labels(std::initializer_list<row_t> labels) {
        return with_labels(std::span<const row_t>(labels.begin(), labels.size()));
    }

    /// Which of `experts` experts each sequence may use: sequences x experts, row-major, 0 for those it may
    /// not (route::masked_top_k).
    batch& with_allowed_experts(std::span<const std::uint8_t> allowed, index_t experts) {
        check::that(experts > 0, "mox::batch::with_allowed_experts", "argument 'experts' must be positive");
        check::size("mox::batch::with_allowed_experts", "allowed", "values, one per sequence and expert",
                    sequences() * experts, ssize_of(allowed));
        allowed_.assign(allowed.begin(), allowed.end());
        allowed_experts_ = experts;
        return *this;
    }
    batch& with_allowed_experts(std::initializer_list<std::uint8_t> allowed, index_t experts) {
        return with_allowed_experts(std::span<const std::uint8_t>(allowed.begin(), allowed.size()), experts);
    }

    /// Reuses the memory: nothing is allocated when the batch does not grow.
    void assign_equal(index_t count, index_t length) {
        offsets_.assign(1, 0);
        positions_.clear();
        labels_.clear();
        allowed_.clear();
        for (index_t i = 0; i < count; ++i) append(length);
    }

private:
    matrix_view<const std::uint8_t> allowed() const noexcept {
        if (allowed_.empty()) return {};
        return {allowed_.data(), sequences(), allowed_experts_};
    }
    void append(index_t length) {
        const std::size_t begin = positions_.size();
        positions_.resize(begin + static_cast<std::size_t>(length));
        std::iota(positions_.begin() + static_cast<std::ptrdiff_t>(begin), positions_.end(), row_t{0});
        offsets_.push_back(static_cast<row_t>(positions_.size()));
    }

    std::vector<row_t> offsets_;
    std::vector<row_t> positions_;
    std::vector<row_t> labels_;
    std::vector<std::uint8_t> allowed_;
    index_t allowed_experts_ = 0;
};

}  // namespace mox::inline MOX_ABI

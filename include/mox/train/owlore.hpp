#pragma once

// How likely OwLore (arXiv 2405.18380) makes each block, and the measure behind it: the share of a block's
// weights that are outliers, as in Outlier Weighed Layerwise Sparsity (OWL, arXiv 2310.05175).

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <mox/core/error.hpp>
#include <mox/core/view.hpp>
#include <mox/model/input_statistics.hpp>

namespace mox::inline MOX_ABI {

enum class owlore_mode {
    uniform,      ///< every block the same: LISA
    owl,          ///< as the shares of outliers
    owl_reverse,  ///< as the largest probability of owl minus the block's own
    increase,     ///< 1, 2, ..., growing with depth
    decrease,     ///< the other way round
    norm,         ///< as the norms of the blocks' weights
};

/// Probabilities of the blocks; their sum is 1. scores: per block the share of outliers (owl, owl_reverse) or
/// the norm of its weights (norm); only their number counts in the other modes. Throws mox::error when scores
/// are negative or all zero, or, for owl_reverse, all the same: nothing would be left to draw.
inline std::vector<double> owlore_probabilities(owlore_mode mode, std::span<const double> scores) {
    constexpr std::string_view call = "mox::owlore_probabilities";
    const index_t n = ssize_of(scores);
    check::that(n > 0, call, "argument 'scores' must have one element per block, got none");
    const auto normalise = [&](std::vector<double>& p, std::string_view otherwise) {
        double sum = 0;
        for (const double x : p) sum += x;
        check::that(sum > 0 && std::isfinite(sum), call, otherwise);
        for (double& x : p) x /= sum;
    };
    std::vector<double> p(scores.size(), 1.0);
    const bool scored =
        mode == owlore_mode::owl || mode == owlore_mode::owl_reverse || mode == owlore_mode::norm;
    for (std::size_t b = 0; b < p.size(); ++b) {
        if (scored) {
            check::that(std::isfinite(scores[b]) && scores[b] >= 0, call,
                        "argument 'scores' must hold finite numbers that are not negative");
            p[b] = scores[b];
        } else if (mode == owlore_mode::increase) {
            p[b] = static_cast<double>(b + 1);
        } else if (mode == owlore_mode::decrease) {
            p[b] = static_cast<double>(p.size() - b);
        }
    }
    normalise(p, "argument 'scores' must hold a number above zero");
    if (mode == owlore_mode::owl_reverse) {
        const double most = *std::max_element(p.begin(), p.end());
        for (double& x : p) x = most - x;
        normalise(p, "argument 'scores' must not be the same for all blocks in mode owl_reverse");
    }
    return p;
}

/// The size of each input of a layer over the rows it was given: ||X_j||_2 of column j.
class activation_norms {
public:
    explicit activation_norms(index_t width) : squares_(checked(width)) {}

    /// x: rows x width, of any number of batches, one after the other.
    template <class T>
    void add(matrix_view<const T> x) {
        check::size("mox::activation_norms::add", "x", "columns", static_cast<index_t>(squares_.size()),
                    x.cols);
        for (index_t t = 0; t < x.rows; ++t) {
            const T* row = x.row(t);
            for (std::size_t j = 0; j < squares_.size(); ++j) {
                squares_[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
            }
        }
    }
    template <class T>
    void add(matrix_view<T> x) {
        add(matrix_view<const T>(x));
    }

    std::vector<double> norms() const {
        std::vector<double> n(squares_);
        for (double& x : n) x = std::sqrt(x);
        return n;
    }

private:
    static std::size_t checked(index_t width) {
        check::that(width > 0, "mox::activation_norms", "argument 'width' must be positive");
        return static_cast<std::size_t>(width);
    }

    std::vector<double> squares_;
};

/// One map of a block: its weights row-major, one row per input, as params::read gives them, and the size of
/// each input. For a stack of experts the inputs of every expert follow each other.
template <class T>
struct weighed_map {
    std::span<const T> weights;
    std::span<const double> input_norms;
};

/// D_l, the share of the weights in a block's maps whose |W_ij| ||X_j||_2 is larger than `multiple` (M of the
/// papers, 13 for OwLore's measured shares) times the mean over the block. Zero when all weights are.
template <class T>
double outlier_share(std::span<const weighed_map<T>> maps, double multiple = 13) {
    constexpr std::string_view call = "mox::outlier_share";
    check::that(multiple > 0, call, "argument 'multiple' must be positive");
    // visit(|W_ij| ||X_j||) over all maps.
    const auto for_each = [&](auto&& visit) {
        for (const weighed_map<T>& m : maps) {
            const std::size_t columns = m.weights.size() / m.input_norms.size();
            for (std::size_t i = 0; i < m.weights.size(); ++i)
                visit(std::abs(static_cast<double>(m.weights[i])) * m.input_norms[i / columns]);
        }
    };
    index_t count = 0;
    for (const weighed_map<T>& m : maps) {
        check::that(!m.input_norms.empty() && m.weights.size() % m.input_norms.size() == 0, call,
                    "argument 'maps' must hold one input norm for each row of a map's weights");
        count += ssize_of(m.weights);
    }
    check::that(count > 0, call, "argument 'maps' must hold weights");
    double sum = 0;
    for_each([&](double size) { sum += size; });
    check::that(std::isfinite(sum), call, "argument 'maps' must hold finite numbers");
    const double threshold = multiple * (sum / static_cast<double>(count));
    index_t outliers = 0;
    for_each([&](double size) { outliers += size > threshold ? 1 : 0; });
    return static_cast<double>(outliers) / static_cast<double>(count);
}

/// outlier_share of every block of Net (mox::trainable_mask), of its maps under mox::observed, given what
/// reached them: the scores of owlore_probabilities. Throws mox::error when a block shows no map.
template <class Net, class T>
std::vector<double> outlier_shares(const params<Net, T>& weights,
                                   const input_statistics<Net, activation_norms>& inputs,
                                   double multiple = 13) {
    struct observed_map {
        index_t offset;
        std::vector<T> weights;
        std::vector<double> norms;
    };
    std::vector<observed_map> maps;
    for (const tensor_info& t : params<Net, T>::tensors()) {
        for (const auto& e : inputs.entries()) {
            if (t.spec.trained && t.path == detail::tensor_path(e.path, "0.weight"))
                maps.push_back({t.offset, weights.read(t), e.inputs.norms()});
        }
    }
    std::vector<double> shares;
    for_each_block<Net, T>([&](index_t begin, index_t end) {
        std::vector<weighed_map<T>> of_block;
        for (const observed_map& m : maps) {
            if (m.offset >= begin && m.offset < end) of_block.push_back({m.weights, m.norms});
        }
        if (of_block.empty()) {
            check::fail("mox::outlier_shares", "block " + std::to_string(shares.size()) +
                                                   " shows no mox::linear; wrap its maps in mox::observed");
        }
        shares.push_back(outlier_share<T>(of_block, multiple));
    });
    return shares;
}

}  // namespace mox::inline MOX_ABI

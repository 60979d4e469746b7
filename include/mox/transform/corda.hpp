#pragma once

// CorDA (arXiv 2406.05223): the start of an adapter from the directions that matter for given inputs, or from
// those that matter least. Not in the umbrella header: Eigen's decompositions are slow to compile.

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <Eigen/LU>
#include <Eigen/SVD>

#include <mox/core/error.hpp>
#include <mox/layer/dora.hpp>
#include <mox/model/input_statistics.hpp>

namespace mox::inline MOX_ABI {

enum class corda_mode {
    instruction,  ///< the largest components: adapt fast to what the inputs are about
    knowledge,    ///< the smallest components: keep what the inputs are about
};

/// What the inputs of a layer look like: the mean over samples of X' X with X divided by the size of its
/// largest entry.
class corda_covariance {
public:
    explicit corda_covariance(index_t width)
        : sum_(Eigen::MatrixXd::Zero(std::max<index_t>(width, 0), std::max<index_t>(width, 0))) {
        check::that(width > 0, "mox::corda_covariance", "argument 'width' must be positive");
    }

    /// One sample: tokens x width. One of zeros alone says nothing and is not counted. Throws mox::error for
    /// another width, and for numbers that are not finite or whose largest is zero.
    template <class T>
    void add(matrix_view<const T> x) {
        check::size("mox::corda_covariance::add", "x", "columns (the layer's input width)", sum_.rows(),
                    x.cols);
        if (x.rows == 0) return;
        Eigen::MatrixXd rows(x.rows, x.cols);
        for (index_t t = 0; t < x.rows; ++t) {
            for (index_t j = 0; j < x.cols; ++j) rows(t, j) = static_cast<double>(x(t, j));
        }
        if (rows.isZero(0)) return;
        // The largest entry, not the largest size: as the authors' code has it.
        const double largest = std::abs(rows.maxCoeff());
        check::that(rows.allFinite() && largest > 0, "mox::corda_covariance::add",
                    "argument 'x' must hold finite numbers whose largest is not zero");
        rows /= largest;
        sum_ += rows.transpose() * rows;
        ++samples_;
    }

    index_t samples() const noexcept { return samples_; }
    Eigen::MatrixXd mean() const { return sum_ / static_cast<double>(std::max<index_t>(samples_, 1)); }

private:
    Eigen::MatrixXd sum_;
    index_t samples_ = 0;
};

/// An adapter and the frozen rest: weight = residual + scale A' B. Row-major a: rank x in, b: rank x out,
/// residual: in x out.
struct corda_start {
    std::vector<double> a, b, residual, singular;
};

/// weight: in x out, row-major. Computed in double. The damping is doubled until the covariance is inverted
/// well. Throws mox::error for a rank that is not between 1 and the smaller width.
template <class T>
corda_start corda(std::span<const T> weight, index_t in, index_t out, index_t rank,
                  const corda_covariance& inputs, corda_mode mode, double scale = 1, double damping = 0.01) {
    using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    check::size("mox::corda", "weight", "elements, in x out", in * out, ssize_of(weight));
    check::that(rank > 0 && rank <= std::min(in, out), "mox::corda",
                "argument 'rank' must lie between 1 and the smaller width");
    check::that(scale > 0 && damping > 0, "mox::corda", "arguments 'scale' and 'damping' must be positive");
    check::that(inputs.samples() > 0, "mox::corda", "argument 'inputs' must hold at least one sample");
    const Eigen::MatrixXd c = inputs.mean();
    check::size("mox::corda", "inputs", "columns (the layer's input width)", in, c.rows());
    matrix w(in, out);
    for (index_t i = 0; i < in * out; ++i)
        w.data()[i] = static_cast<double>(weight[static_cast<std::size_t>(i)]);

    const Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(in, in);
    Eigen::MatrixXd damped, inverse;
    for (int attempt = 0;; ++attempt) {
        damped = c + damping * c.diagonal().mean() * identity;
        inverse = damped.inverse();
        const double error_norm = (damped * inverse - identity).norm();
        if (error_norm < 0.05) break;
        check::that(attempt < 60, "mox::corda", "the covariance of the inputs cannot be inverted");
        damping *= 2;
    }
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(w.transpose() * damped,
                                                Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Eigen::VectorXd& sigma = svd.singularValues();
    const Eigen::MatrixXd right = svd.matrixV().transpose() * inverse;

    corda_start start;
    start.singular.assign(sigma.data(), sigma.data() + sigma.size());
    matrix a(rank, in), b(rank, out);
    for (index_t r = 0; r < rank; ++r) {
        const index_t component = mode == corda_mode::instruction ? r : sigma.size() - rank + r;
        const double root = std::sqrt(sigma(component) / scale);
        a.row(r) = root * right.row(component);
        b.row(r) = root * svd.matrixU().col(component).transpose();
    }
    const matrix residual = w - scale * a.transpose() * b;
    start.a.assign(a.data(), a.data() + a.size());
    start.b.assign(b.data(), b.data() + b.size());
    start.residual.assign(residual.data(), residual.data() + residual.size());
    return start;
}

namespace detail {

template <class Layer>
consteval bool check_corda() {
    constexpr bool is_lora = requires { Layer::kept; };
    static_assert(is_lora, "mox::corda_initialise: the layer must be a mox::lora, whose factors take over a "
                           "part of its base");
    if constexpr (is_lora) {
        static_assert(
            !Layer::gate_type::routed,
            "mox::corda_initialise: the gate must be mox::rank_gate::all; one that leaves ranks out "
            "would take away a part of the base");
        static_assert(is_plain_linear<typename Layer::base_type>,
                      "mox::corda_initialise: the adapter must be around a mox::linear with weights of full "
                      "precision, from which it takes its start");
    }
    return true;
}

// Whether a layer is an adapter that CorDA can start.
template <class Layer>
constexpr bool takes_corda() {
    if constexpr (requires {
                      typename Layer::gate_type;
                      Layer::kept;
                  }) {
        return !Layer::gate_type::routed && is_plain_linear<typename Layer::base_type>;
    } else {
        return false;
    }
}

// A start of the adapter at a path, not yet written.
template <class T>
struct corda_plan {
    std::string path;
    std::vector<T> a, b, residual;

    template <class Net>
    void write(params<Net, T>& weights) const {
        weights.write(tensor_path(path, "a"), a);
        weights.write(tensor_path(path, "b"), b);
        weights.write(tensor_path(path, "0.0.weight"), residual);
    }
};

template <class Layer, class Net, class T>
corda_plan<T> plan_corda(const params<Net, T>& weights, const std::string& path,
                         const corda_covariance& inputs, corda_mode mode, double damping) {
    const std::vector<T> base = weights.read(tensor_path(path, "0.0.weight")),
                         up = weights.read(tensor_path(path, "b"));
    check::that(std::all_of(up.begin(), up.end(), [](T v) { return v == T(0); }), "mox::corda_initialise",
                "tensor '" + tensor_path(path, "b") +
                    "' must be zero, but it is not: the adapter has been started or "
                    "trained already, and what it holds would be lost");
    const corda_start s = corda(std::span<const T>(base), Layer::in, Layer::out, Layer::ranks - Layer::kept,
                                inputs, mode, Layer::scale, damping);
    const auto typed = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };
    return {path, typed(s.a), typed(s.b), typed(s.residual)};
}

}  // namespace detail

/// Starts the adapter at `path` (of a mox::lora around a mox::linear): its factors, and the frozen rest in
/// the place of the base; kept ranks stay. The function stays the same up to rounding. Throws mox::error when
/// the adapter is not zero (started already, or trained); nothing is changed then. The adapter is then not
/// zero: what it learns is its factors' product minus the one at the start (mox::sum_adapters makes a plain
/// adapter of that).
template <class Layer, class Net, class T>
void corda_initialise(params<Net, T>& weights, const std::string& path, const corda_covariance& inputs,
                      corda_mode mode, double damping = 0.01) {
    static_assert(detail::check_corda<Layer>());
    detail::plan_corda<Layer>(weights, path, inputs, mode, damping).write(weights);
}

/// Starts every adapter of a network whose map was observed, in this network or in another one with the same
/// map at the same place (names as in mox::copy_matching), and returns how many. Each pass that was observed
/// is one sample:
///
///     using watched = attention<heads, mask::causal, as_observed<>>;              // the trained network
///     using adapted = attention<heads, mask::causal, with_lora<r8>>;
///     mox::input_statistics<watched, mox::corda_covariance> inputs;
///     tape.observe(inputs);
///     for (const auto& sample : samples) mox::infer<watched>(trained, sample, tape);
///     mox::copy_matching(trained, weights);
///     mox::corda_initialise(weights, inputs, mox::corda_mode::knowledge);
///
/// The adapter inside a mox::dora is one of them. Those without observed inputs, with a gate, or around
/// anything but a plain mox::linear stay as they are. Throws mox::error when none is left, or when one of
/// them cannot be started (it is not zero, its rank is larger than a width, nothing has reached its map);
/// nothing is changed then.
template <class Net, class T, class Observed>
index_t corda_initialise(params<Net, T>& weights, const input_statistics<Observed, corda_covariance>& inputs,
                         corda_mode mode, double damping = 0.01) {
    std::vector<detail::corda_plan<T>> plans;
    detail::visit_layers<Net>([&](auto layer, const std::string& path, const std::string& place, bool) {
        using L = typename decltype(layer)::type;
        if constexpr (detail::takes_corda<L>()) {
            for (const auto& e : inputs.entries()) {
                if (e.place != place) continue;
                try {
                    plans.push_back(detail::plan_corda<L>(weights, path, e.inputs, mode, damping));
                } catch (const error& why) {
                    check::fail("mox::corda_initialise",
                                "the adapter '" + path + "' cannot be started: " + why.what());
                }
                return;
            }
        }
    });
    check::that(
        !plans.empty(), "mox::corda_initialise",
        "argument 'inputs' must hold those of a map that has an adapter, but there is none: observe "
        "the map in the network without adapters, or mox::lora from outside (mox::observed<lora<...>>, "
        "mox::as_observed<with_lora<...>>)");
    for (const auto& p : plans) p.write(weights);
    return static_cast<index_t>(plans.size());
}

}  // namespace mox::inline MOX_ABI

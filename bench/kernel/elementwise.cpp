// Element-wise kernels on rows that lie in memory, not in a cache: norms, softmax, and the gate of SwiGLU.
// Their limit is the memory itself, at as many reads for a write, nothing read that is only written;
// Eigen is written as a user would.

#include <Eigen/Core>

#include <mox/mox.hpp>

#include "support/steps.hpp"

namespace {

using bench::index_t;

constexpr index_t tokens = 32768, width = 1024;  // 128 MB on each side

struct memory {
    mox::buffer<float> x = bench::random_rows(tokens, width, 1), y{tokens * width}, gain{width}, shift{width},
                       statistics{2 * tokens}, dgain{width}, dshift{width};
    mox::serial_executor serial;

    memory() {
        for (index_t j = 0; j < width; ++j) {
            gain[j] = 1.0f + 0.001f * static_cast<float>(j);
            shift[j] = 0.001f * static_cast<float>(j);
        }
    }

    mox::executor_ref exec() { return mox::executor_ref(serial); }
    mox::matrix_view<const float> from() const { return {x.data(), tokens, width}; }
    mox::matrix_view<float> to() { return {y.data(), tokens, width}; }

    void rms_norm() {
        mox::kernel::rms_norm<float>(exec(), from(), gain.data(), 1e-6f, to(), statistics.data());
    }
    void layer_norm() {
        mox::kernel::layer_norm<float>(exec(), from(), gain.data(), shift.data(), 1e-5f, to(),
                                       statistics.data());
    }
    void add_rms_norm() {
        mox::kernel::add_rms_norm<float>(exec(), from(), sum(), gain.data(), 1e-6f, to(), statistics.data());
    }
    void add_then_rms_norm() {
        mox::kernel::add_rows<float>(exec(), from(), sum());
        mox::kernel::rms_norm<float>(exec(), sum(), gain.data(), 1e-6f, to(), statistics.data());
    }
    void add_layer_norm() {
        mox::kernel::add_layer_norm<float>(exec(), from(), sum(), gain.data(), shift.data(), 1e-5f, to(),
                                           statistics.data());
    }
    void add_then_layer_norm() {
        mox::kernel::add_rows<float>(exec(), from(), sum());
        mox::kernel::layer_norm<float>(exec(), sum(), gain.data(), shift.data(), 1e-5f, to(),
                                       statistics.data());
    }
    // The residual stands for the gradient of the result.
    void rms_norm_backward() {
        mox::kernel::rms_norm_backward<float>(exec(), from(), gain.data(), statistics.data(), sum(), to(),
                                              dgain.data(), false);
    }
    void layer_norm_backward() {
        mox::kernel::layer_norm_backward<float>(exec(), from(), gain.data(), statistics.data(), sum(), to(),
                                                dgain.data(), dshift.data(), false);
    }
    void softmax() { mox::kernel::softmax_rows<float>(exec(), from(), to(), nullptr); }
    // The rows stand for the probabilities, the residual for the gradient of the result.
    void softmax_backward() { mox::kernel::softmax_backward_rows<float>(exec(), from(), sum(), to(), false); }
    // Rows of pre-activations in panel order, as the product leaves them for backward.
    void gate() {
        mox::kernel::gated_rows<float, mox::activation::silu>(exec(), from(), {y.data(), tokens, width / 2});
    }

    using rows = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
    using result = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
    rows eigen_from() const { return rows(x.data(), tokens, width); }
    result eigen_to() { return result(y.data(), tokens, width); }
    Eigen::Map<const Eigen::RowVectorXf> eigen(const mox::buffer<float>& v) const {
        return Eigen::Map<const Eigen::RowVectorXf>(v.data(), width);
    }

    void eigen_rms_norm() {
        const rows in = eigen_from();
        result out = eigen_to();
        for (index_t t = 0; t < tokens; ++t) {
            const float r = 1.0f / std::sqrt(in.row(t).squaredNorm() / static_cast<float>(width) + 1e-6f);
            out.row(t) = in.row(t).cwiseProduct(eigen(gain)) * r;
        }
    }
    void eigen_layer_norm() {
        const rows in = eigen_from();
        result out = eigen_to();
        for (index_t t = 0; t < tokens; ++t) {
            const float mean = in.row(t).mean();
            const float r = 1.0f / std::sqrt((in.row(t).array() - mean).square().mean() + 1e-5f);
            out.row(t) =
                ((in.row(t).array() - mean) * r * eigen(gain).array() + eigen(shift).array()).matrix();
        }
    }
    void eigen_rms_norm_backward() {
        const rows in = eigen_from(), dy(residual.data(), tokens, width);
        result out = eigen_to();
        Eigen::RowVectorXf to_gain = Eigen::RowVectorXf::Zero(width);
        for (index_t t = 0; t < tokens; ++t) {
            const float r = statistics[t];
            const float c =
                r * r * dy.row(t).cwiseProduct(eigen(gain)).dot(in.row(t)) / static_cast<float>(width);
            out.row(t) = (dy.row(t).cwiseProduct(eigen(gain)) - in.row(t) * c) * r;
            to_gain += dy.row(t).cwiseProduct(in.row(t)) * r;
        }
        std::copy_n(to_gain.data(), width, dgain.data());
    }
    void eigen_layer_norm_backward() {
        const rows in = eigen_from(), dy(residual.data(), tokens, width);
        result out = eigen_to();
        Eigen::Array<float, 1, Eigen::Dynamic> to_gain = Eigen::Array<float, 1, Eigen::Dynamic>::Zero(width),
                                               to_shift = to_gain;
        for (index_t t = 0; t < tokens; ++t) {
            const float mean = statistics[2 * t], r = statistics[2 * t + 1];
            const auto u = dy.row(t).array() * eigen(gain).array();
            const auto n = (in.row(t).array() - mean) * r;
            const float u_mean = u.mean(), un_mean = (u * n).mean();
            out.row(t) = ((u - u_mean - n * un_mean) * r).matrix();
            to_gain += dy.row(t).array() * n;
            to_shift += dy.row(t).array();
        }
        std::copy_n(to_gain.data(), width, dgain.data());
        std::copy_n(to_shift.data(), width, dshift.data());
    }
    void eigen_softmax() {
        const rows in = eigen_from();
        result out = eigen_to();
        for (index_t t = 0; t < tokens; ++t) {
            out.row(t) = (in.row(t).array() - in.row(t).maxCoeff()).exp().matrix();
            out.row(t) /= out.row(t).sum();
        }
    }
    void eigen_softmax_backward() {
        const rows in = eigen_from(), dy(residual.data(), tokens, width);
        result out = eigen_to();
        for (index_t t = 0; t < tokens; ++t) {
            out.row(t) = (in.row(t).array() * (dy.row(t).array() - in.row(t).dot(dy.row(t)))).matrix();
        }
    }
    void eigen_gate() {
        const auto a = eigen_from().leftCols(width / 2).array(),
                   u = eigen_from().rightCols(width / 2).array();
        result(y.data(), tokens, width / 2) = (a / (1.0f + (-a).exp()) * u).matrix();
    }

private:
    mox::buffer<float> residual = bench::random_rows(tokens, width, 3);
    mox::matrix_view<float> sum() { return {residual.data(), tokens, width}; }
};

const bench::registration add([](std::vector<bench::group>& groups) {
    constexpr double once = 4.0 * tokens * width;
    const auto add_group = [&](const char* name, double bytes, void (memory::*mine)(), double of_limit,
                               const char* peer, void (memory::*other)(), double against,
                               bench::limit kind = bench::limit::copy_bandwidth) {
        groups.push_back({std::string("elementwise/") + name + "/T32768_D1024",
                          bytes,
                          kind,
                          {{of_limit, 0, ""}, {.against = against, .peer = peer}},
                          {{"mox", bench::run(mine)}, {peer, bench::run(other)}}});
    };
    add_group("rms_norm", 2 * once, &memory::rms_norm, 0.90, "eigen", &memory::eigen_rms_norm, 1.5);
    add_group("layer_norm", 2 * once, &memory::layer_norm, 0.90, "eigen", &memory::eigen_layer_norm, 1.3);
    // Reads the addend, reads and writes the sum, writes the norm.
    add_group("add_rms_norm", 4 * once, &memory::add_rms_norm, 0.90, "two_passes", &memory::add_then_rms_norm,
              1.1);
    add_group("add_layer_norm", 4 * once, &memory::add_layer_norm, 0.90, "two_passes",
              &memory::add_then_layer_norm, 1.1);
    add_group("softmax", 2 * once, &memory::softmax, 0.90, "eigen", &memory::eigen_softmax, 1.15);
    // These read twice what they write.
    constexpr bench::limit adding = bench::limit::add_bandwidth;
    add_group("softmax_backward", 3 * once, &memory::softmax_backward, 0.90, "eigen",
              &memory::eigen_softmax_backward, 1.2, adding);
    add_group("swiglu_gate", 1.5 * once, &memory::gate, 0.90, "eigen", &memory::eigen_gate, 2.0, adding);
    // The sums for gain and shift take as many loads and stores of the first cache again.
    add_group("rms_norm_backward", 3 * once, &memory::rms_norm_backward, 0.70, "eigen",
              &memory::eigen_rms_norm_backward, 1.3, adding);
    add_group("layer_norm_backward", 3 * once, &memory::layer_norm_backward, 0.55, "eigen",
              &memory::eigen_layer_norm_backward, 1.3, adding);
});

}  // namespace

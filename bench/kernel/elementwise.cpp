// Element-wise kernels on rows that lie in memory, not in a cache: norms, softmax, and the gate of SwiGLU.
// Their limit is the memory itself, one read and one write of every value; Eigen is written as a user would.

#include <Eigen/Core>

#include <mox/mox.hpp>

#include "support/steps.hpp"

namespace {

using bench::index_t;

constexpr index_t tokens = 32768, width = 1024;  // 128 MB on each side

struct memory {
    mox::buffer<float> x = bench::random_rows(tokens, width, 1), y{tokens * width}, gain{width}, shift{width},
                       statistics{2 * tokens};
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
    void softmax() { mox::kernel::softmax_rows<float>(exec(), from(), to(), nullptr); }
    // Rows of pre-activations in panel order, as the product leaves them for backward.
    void gate() {
        constexpr index_t W = mox::kernel::panel_width<float>;
        for (index_t t = 0; t < tokens; ++t) {
            for (index_t p = 0; p < width; p += W) {
                mox::kernel::gated_tile_row<float, mox::simd::default_arch, mox::activation::silu>(
                    x.data() + t * width + p, W, y.data() + (t * width + p) / 2);
            }
        }
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
    void eigen_softmax() {
        const rows in = eigen_from();
        result out = eigen_to();
        for (index_t t = 0; t < tokens; ++t) {
            out.row(t) = (in.row(t).array() - in.row(t).maxCoeff()).exp().matrix();
            out.row(t) /= out.row(t).sum();
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
    const auto add_group = [&](const char* name, double bytes, void (memory::*mine)(), const char* peer,
                               void (memory::*other)(), double against) {
        groups.push_back({std::string("elementwise/") + name + "/T32768_D1024",
                          bytes,
                          bench::limit::copy_bandwidth,
                          {{0.90, 0, ""}, {.against = against, .peer = peer}},
                          {{"mox", bench::run(mine)}, {peer, bench::run(other)}}});
    };
    add_group("rms_norm", 2 * once, &memory::rms_norm, "eigen", &memory::eigen_rms_norm, 1.0);
    add_group("layer_norm", 2 * once, &memory::layer_norm, "eigen", &memory::eigen_layer_norm, 1.0);
    // Reads the addend, reads and writes the sum, writes the norm.
    add_group("add_rms_norm", 4 * once, &memory::add_rms_norm, "two_passes", &memory::add_then_rms_norm,
              1.15);
    add_group("softmax", 2 * once, &memory::softmax, "eigen", &memory::eigen_softmax, 1.0);
    add_group("swiglu_gate", 1.5 * once, &memory::gate, "eigen", &memory::eigen_gate, 1.0);
});

}  // namespace

#include <mox/kernel/norm_backward.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/norm.hpp>
#include <mox/kernel/reference/rows.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;

namespace {

template <class T>
struct gradients {
    guarded_rows<T> dx;
    std::vector<T> dgain, dshift;
};

template <class T>
gradients<T> backward(executor_ref exec, guarded_rows<T>& x, guarded_rows<T>& gain, guarded_rows<T>& dy,
                      bool centred, bool with_dx, bool accumulate) {
    const index_t rows = x.rows, cols = x.cols;
    const auto n = static_cast<std::size_t>(cols + 1);
    gradients<T> g{guarded_rows<T>(rows, cols, 9), std::vector<T>(n, T(2)), std::vector<T>(n, T(2))};
    guarded_rows<T> y(rows, cols, 5);
    std::vector<T> saved(static_cast<std::size_t>(2 * rows));
    const matrix_view<T> dx = with_dx ? g.dx.view() : matrix_view<T>{};
    if (centred) {
        kernel::layer_norm<T>(exec, x.view(), gain.values.data(), gain.values.data(), T(0.01), y.view(),
                              saved.data());
        kernel::layer_norm_backward<T>(exec, x.view(), gain.values.data(), saved.data(), dy.view(), dx,
                                       g.dgain.data(), g.dshift.data(), accumulate);
    } else {
        kernel::rms_norm<T>(exec, x.view(), gain.values.data(), T(0.01), y.view(), saved.data());
        kernel::rms_norm_backward<T>(exec, x.view(), gain.values.data(), saved.data(), dy.view(), dx,
                                     g.dgain.data(), accumulate);
    }
    return g;
}

template <class T>
void check_shape(index_t rows, index_t cols, double bound) {
    CAPTURE(rows, cols);
    guarded_rows<T> x(rows, cols, 1), gain(1, cols, 2), dy(rows, cols, 4);
    thread_pool pool(3);
    for (const bool centred : {false, true}) {
        for (const bool accumulate : {false, true}) {
            const gradients<T> g = backward<T>({}, x, gain, dy, centred, true, accumulate);
            // The plain twins, in double.
            const auto n = static_cast<std::size_t>(cols);
            std::vector<double> dgain(n, accumulate ? 2.0 : 0.0), dshift = dgain, in(n), w(n), d(n), dx(n);
            for (index_t t = 0; t < rows; ++t) {
                for (index_t j = 0; j < cols; ++j) {
                    in[static_cast<std::size_t>(j)] = x(t, j);
                    w[static_cast<std::size_t>(j)] = gain(0, j);
                    d[static_cast<std::size_t>(j)] = dy(t, j);
                }
                const double e = static_cast<double>(T(0.01));
                if (centred) {
                    kernel::reference::layer_norm_backward_row<double>(
                        in.data(), w.data(), d.data(), cols, e, dx.data(), dgain.data(), dshift.data());
                } else {
                    kernel::reference::rms_norm_backward_row<double>(in.data(), w.data(), d.data(), cols, e,
                                                                     dx.data(), dgain.data());
                }
                double worst = 0;
                for (index_t j = 0; j < cols; ++j)
                    worst = std::max(worst, std::abs(g.dx(t, j) - dx[static_cast<std::size_t>(j)]));
                CHECK(worst < 10 * bound);
            }
            double worst = 0;
            for (std::size_t j = 0; j < n; ++j) {
                worst = std::max(worst, std::abs(static_cast<double>(g.dgain[j]) - dgain[j]));
                if (centred) worst = std::max(worst, std::abs(static_cast<double>(g.dshift[j]) - dshift[j]));
            }
            CHECK(worst < bound * (20 + static_cast<double>(rows)));
            CHECK(g.dx.guards_hold());
            CHECK(g.dgain.back() == T(2));
            CHECK(g.dshift.back() == T(2));
            // With threads, and the sums alone: the same bits.
            const gradients<T> threads = backward<T>(pool, x, gain, dy, centred, true, accumulate);
            CHECK(threads.dx.values == g.dx.values);
            CHECK(threads.dgain == g.dgain);
            CHECK(threads.dshift == g.dshift);
            const gradients<T> alone = backward<T>({}, x, gain, dy, centred, false, accumulate);
            CHECK(alone.dgain == g.dgain);
            CHECK(alone.dshift == g.dshift);
        }
    }
}

template <class T>
void check_streaming(index_t cols) {
    CAPTURE(cols);
    using arch = simd::default_arch;
    namespace d = kernel::detail;
    constexpr index_t rows = 5;
    const index_t stride = round_up(cols, 16);
    guarded_rows<T> x(rows, cols, 1), gain(1, cols, 2), dy(rows, cols, 3), saved(1, 2 * rows, 4);
    buffer<T> a(rows * stride + 16), b(rows * stride + 16), ga(2 * cols), gb(2 * cols);
    d::norm_gradients<T> g{x.view(),
                           dy.view(),
                           gain.values.data(),
                           saved.values.data(),
                           matrix_view<T>(a.data(), rows, cols, stride),
                           ga.data(),
                           ga.data() + cols};
    d::norm_backward_rows<T, arch, d::layer_row<T, arch>, false, true>(g, 0, rows);
    g.dx.data = b.data();
    g.dgain = gb.data();
    g.dshift = gb.data() + cols;
    d::norm_backward_rows<T, arch, d::layer_row<T, arch>, true, true>(g, 0, rows);
    simd::stream_fence();
    CHECK(std::equal(a.data(), a.data() + a.size(), b.data()));
    CHECK(std::equal(ga.data(), ga.data() + ga.size(), gb.data()));
}

}  // namespace

TEST_CASE("norm backward: plain loops, any number of threads", "[kernel][norm]") {
    for (const index_t rows : {index_t{0}, index_t{1}, index_t{150}}) {
        for (const index_t cols : {index_t{1}, index_t{5}, index_t{16}, index_t{77}, index_t{200}}) {
            check_shape<double>(rows, cols, 1e-13);
            check_shape<float>(rows, cols, 5e-6);
        }
    }
    // Several blocks of rows.
    check_shape<float>(700, 1600, 2e-5);
}

TEST_CASE("norm backward: stores past the caches write the same bits", "[kernel][norm]") {
    for (const index_t cols : {index_t{1}, index_t{16}, index_t{77}, index_t{160}}) {
        check_streaming<float>(cols);
        check_streaming<double>(cols);
    }
}

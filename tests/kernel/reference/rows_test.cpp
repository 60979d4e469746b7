#include <mox/kernel/reference/rows.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../../support/catch.hpp"
#include "../../support/layers.hpp"

using namespace mox;
using mox_test::normal_numbers;
namespace plain = kernel::reference;

namespace {

using numbers = std::vector<double>;

// The gradient of sum_i dy_i f(x)_i by central differences. f(x, y): both of one size.
template <class F>
numbers slope(numbers x, const numbers& dy, F&& f) {
    numbers y(dy.size());
    return mox_test::central_differences(x, [&] {
        f(x, y);
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
        return sum;
    });
}

}  // namespace

TEST_CASE("plain rows: softmax by hand, for any shift, in place", "[kernel][reference]") {
    numbers x{std::log(1.0), std::log(2.0), std::log(5.0)}, p(3);
    CHECK(plain::softmax_row(x.data(), 3, p.data()) == Approx(std::log(8.0)).epsilon(1e-15));
    CHECK(mox_test::distance(p, numbers{0.125, 0.25, 0.625}) < 1e-15);
    for (double& v : x) v += 5000;
    CHECK(plain::softmax_row(x.data(), 3, x.data()) == Approx(5000 + std::log(8.0)).epsilon(1e-15));
    CHECK(mox_test::distance(x, p) < 1e-12);
    const double infinity = std::numeric_limits<double>::infinity();
    numbers y{0, -infinity};
    plain::softmax_row(y.data(), 2, y.data());
    CHECK(y == numbers{1, 0});
    const double one = 3;
    double out = 0;
    CHECK(plain::softmax_row(&one, 1, &out) == 3.0);
    CHECK(out == 1.0);
}

TEST_CASE("plain rows: the k largest, ties to the lowest index, NaN last", "[kernel][reference]") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const numbers x{2, nan, 7, 2, -1, 7};
    std::vector<row_t> chosen(6), selected(6);
    plain::top_k_row(x.data(), 6, 6, chosen.data());
    CHECK(chosen == std::vector<row_t>{2, 5, 0, 3, 4, 1});
    plain::select_top(x.data(), 6, 3, selected.data());
    CHECK(std::vector<row_t>(selected.begin(), selected.begin() + 3) == std::vector<row_t>{0, 2, 5});
    plain::select_top(x.data(), 6, 6, selected.data());
    CHECK(selected == std::vector<row_t>{0, 1, 2, 3, 4, 5});
    plain::select_top(x.data(), 6, 0, selected.data());
    CHECK(selected[0] == 0);
}

TEST_CASE("plain rows: norms by hand", "[kernel][reference]") {
    const numbers x{1, 7}, gain{2, -1}, shift{10, 20};
    numbers y(2);
    // The mean square is 25; the mean is 4 and the variance 9.
    plain::rms_norm_row(x.data(), gain.data(), 2, 0.0, y.data());
    CHECK(mox_test::distance(y, numbers{0.4, -1.4}) < 1e-15);
    plain::rms_norm_row(x.data(), gain.data(), 2, 75.0, y.data());
    CHECK(mox_test::distance(y, numbers{0.2, -0.7}) < 1e-15);
    plain::layer_norm_row(x.data(), gain.data(), shift.data(), 2, 0.0, y.data());
    CHECK(mox_test::distance(y, numbers{8, 19}) < 1e-15);
    plain::layer_norm_row(x.data(), gain.data(), shift.data(), 2, 7.0, y.data());
    CHECK(mox_test::distance(y, numbers{8.5, 19.25}) < 1e-15);
}

TEST_CASE("plain rows: gradients against central differences", "[kernel][reference]") {
    for (const index_t n : {index_t{1}, index_t{2}, index_t{9}}) {
        const numbers x = normal_numbers<double>(n, 1), gain = normal_numbers<double>(n, 2),
                      shift = normal_numbers<double>(n, 3), dy = normal_numbers<double>(n, 4);
        // One number alone has no softmax and no variance to speak of: both gradients are zero then.
        const double epsilon = 0.1;
        numbers dx(x.size()), dgain(x.size(), 1.0), dshift(x.size(), 1.0);
        const auto close = [](const numbers& a, const numbers& b) { return mox_test::distance(a, b) < 1e-8; };
        const auto plus_one = [](numbers v) {
            for (double& e : v) e += 1;
            return v;
        };

        numbers p(x.size());
        plain::softmax_row(x.data(), n, p.data());
        plain::softmax_backward_row(p.data(), dy.data(), n, dx.data());
        CHECK(close(dx, slope(x, dy, [&](const numbers& v, numbers& y) {
                        plain::softmax_row(v.data(), n, y.data());
                    })));

        // Gradients of gain and shift are added to what is there.
        plain::rms_norm_backward_row(x.data(), gain.data(), dy.data(), n, epsilon, dx.data(), dgain.data());
        CHECK(close(dx, slope(x, dy, [&](const numbers& v, numbers& y) {
                        plain::rms_norm_row(v.data(), gain.data(), n, epsilon, y.data());
                    })));
        CHECK(close(dgain, plus_one(slope(gain, dy, [&](const numbers& v, numbers& y) {
                        plain::rms_norm_row(x.data(), v.data(), n, epsilon, y.data());
                    }))));

        dgain.assign(x.size(), 1.0);
        plain::layer_norm_backward_row(x.data(), gain.data(), dy.data(), n, epsilon, dx.data(), dgain.data(),
                                       dshift.data());
        CHECK(close(dx, slope(x, dy, [&](const numbers& v, numbers& y) {
                        plain::layer_norm_row(v.data(), gain.data(), shift.data(), n, epsilon, y.data());
                    })));
        CHECK(close(dgain, plus_one(slope(gain, dy, [&](const numbers& v, numbers& y) {
                        plain::layer_norm_row(x.data(), v.data(), shift.data(), n, epsilon, y.data());
                    }))));
        CHECK(close(dshift, plus_one(dy)));
    }
}

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/golden.hpp"
#include "../support/layers.hpp"

using mox::index_t;
using mox_test::golden;

namespace {

double distance(const std::vector<double>& got, const std::vector<double>& expected) {
    REQUIRE(got.size() == expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double d = std::abs(got[i] - expected[i]) / std::max(1.0, std::abs(expected[i]));
        worst = std::isnan(d) ? HUGE_VAL : std::max(worst, d);
    }
    return worst;
}

// Scales are stored as float: half a unit in the last place of each product, and there are at most 12.
constexpr double scale_bound = 1e-6;

template <index_t In, index_t Out, class F>
void check_format(const std::string& name) {
    const golden g(name);
    using net = mox::linear<In, Out, mox::bias::none, false, F>;
    mox::params<net, double> weights, grads;
    weights.write("weight", mox_test::transposed(g.tensor("in.weight")));

    CHECK(distance(weights.read("weight"), mox_test::transposed(g.tensor("out.dequantised"))) < scale_bound);

    // The codes themselves: nothing lies between two of them.
    const auto code = g.codes("out.code");
    const auto scale = g.tensor("out.scale");
    const index_t groups = static_cast<index_t>(scale.values.size()) / Out;
    const auto w = weights.read("weight");
    for (index_t n = 0; n < Out; ++n) {
        for (index_t k = 0; k < In; ++k) {
            const auto group = static_cast<std::size_t>(n * groups + k / (In / groups));
            int zero = 0;
            if (g.has("out.zero")) zero = g.codes("out.zero").values[group];
            const double steps = w[static_cast<std::size_t>(k * Out + n)] / scale.values[group] + zero;
            CHECK(static_cast<int>(std::lround(steps)) == code.values[static_cast<std::size_t>(n * In + k)]);
        }
    }

    const auto x = g.tensor("in.x").values;
    const auto rows = mox::batch::ragged({static_cast<mox::row_t>(x.size() / In)});
    mox::tape<net, double> tape;
    CHECK(distance(mox_test::run_infer<net, double>(weights, x, rows, tape), g.tensor("out.y").values) <
          scale_bound);

    (void)mox_test::run_forward<net, double>(weights, x, rows, tape);
    const auto dy = g.tensor("in.dy").values;
    for (index_t t = 0; t < rows.rows(); ++t)
        std::copy_n(dy.data() + t * Out, Out, tape.output_grad().row(t));
    std::vector<double> dx(x.size());
    mox::backward<net, double>(weights, tape, grads, mox::matrix_view<double>(dx.data(), rows.rows(), In));
    CHECK(distance(dx, g.tensor("grad.in.x").values) < scale_bound);
}

}  // namespace

TEST_CASE("golden: int8 weights", "[golden][quant]") {
    check_format<9, 6, mox::weight::int8<mox::weight::rows::exact>>("quant-int8");
}

TEST_CASE("golden: int8 weights and rows", "[golden][quant]") {
    using format = mox::weight::int8<>;
    check_format<7, 5, format>("quant-int8act");
    const golden g("quant-int8act");
    const auto x = g.tensor("in.x").values;
    mox::arena memory;
    const index_t count = static_cast<index_t>(x.size()) / 7;
    const auto rows = mox::kernel::packed_rows<format, double>::take(memory, count, 7);
    mox::kernel::pack_rows<format, double>({}, mox::matrix_view<const double>(x.data(), count, 7), rows);
    const auto code = g.codes("out.x_code");
    for (index_t t = 0; t < count; ++t) {
        for (index_t k = 0; k < 7; ++k) {
            const auto at = static_cast<std::size_t>(t * 7 + k);
            CHECK(static_cast<int>(rows(t).codes[k]) - 128 == code.values[at]);
            CHECK(std::abs(x[at] - rows(t).scale * code.values[at]) <= rows(t).scale * 0.5000001);
        }
    }
}

TEST_CASE("golden: int4 weights, zero in the middle", "[golden][quant]") {
    check_format<12, 5, mox::weight::int4<6, mox::weight::zero::middle, mox::weight::rows::exact>>(
        "quant-int4sym");
}

TEST_CASE("golden: int4 weights, moving zero", "[golden][quant]") {
    check_format<8, 7, mox::weight::int4<4, mox::weight::zero::moving, mox::weight::rows::exact>>(
        "quant-int4asym");
}

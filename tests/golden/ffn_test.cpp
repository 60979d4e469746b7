#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/golden.hpp"

using mox_test::golden;

namespace {

// Largest difference, relative to values above 1.
template <class T>
double distance(const std::vector<T>& got, const std::vector<double>& expected) {
    REQUIRE(got.size() == expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double d =
            std::abs(static_cast<double>(got[i]) - expected[i]) / std::max(1.0, std::abs(expected[i]));
        worst = std::isnan(d) ? 1e300 : std::max(worst, d);
    }
    return worst;
}

template <class T>
std::vector<T> as(const std::vector<double>& v) {
    return std::vector<T>(v.begin(), v.end());
}

template <class T>
std::vector<T> flat(mox::matrix_view<const T> m) {
    std::vector<T> v;
    for (mox::index_t i = 0; i < m.rows; ++i) v.insert(v.end(), m.row(i), m.row(i) + m.cols);
    return v;
}

template <class Net, class T>
void check_ffn(const std::string& name, double bound) {
    const golden g(name);
    const bool gated = g.has("param.gate");
    const auto first = [&](const std::string& prefix) {
        return gated ? mox_test::gate_and_up(g.tensor(prefix + "gate"), g.tensor(prefix + "up"))
                     : mox_test::transposed(g.tensor(prefix + "up"));
    };
    const std::string first_path = gated ? "gate_up" : "up";
    mox::params<Net, T> weights, grads;
    weights.write(first_path, as<T>(first("param.")));
    weights.write("down", as<T>(mox_test::transposed(g.tensor("param.down"))));

    const auto shape = g.tensor("in.x").shape;
    const auto n = static_cast<mox::index_t>(shape[0]);
    REQUIRE(static_cast<mox::index_t>(shape[1]) == Net::in);
    const std::vector<T> x = as<T>(g.tensor("in.x").values);
    mox::tape<Net, T> tape;
    const auto y = mox::forward<Net, T>(weights, mox::matrix_view<const T>(x.data(), n, Net::in), tape);
    CHECK(distance(flat<T>(y), g.tensor("out.y").values) < bound);

    const std::vector<T> dy = as<T>(g.tensor("in.dy").values);
    for (mox::index_t i = 0; i < n; ++i)
        std::copy_n(dy.data() + i * Net::out, Net::out, tape.output_grad().row(i));
    std::vector<T> dx(x.size());
    mox::backward<Net, T>(weights, tape, grads, mox::matrix_view<T>(dx.data(), n, Net::in));
    CHECK(distance(dx, g.tensor("grad.in.x").values) < bound);
    CHECK(distance(grads.read(first_path), first("grad.param.")) < bound);
    CHECK(distance(grads.read("down"), mox_test::transposed(g.tensor("grad.param.down"))) < bound);

    const auto inferred = mox::infer<Net, T>(weights, mox::matrix_view<const T>(x.data(), n, Net::in), tape);
    CHECK(distance(flat<T>(inferred), g.tensor("out.y").values) < bound);
}

// The hidden activations: what reaches the second map.
template <mox::index_t D, mox::index_t H, class Act, bool Gated>
void check_hidden(const std::string& name) {
    using net = mox::adapted_ffn<D, H, Act, mox::as_observed<>, Gated>;
    const golden g(name);
    mox::params<net, double> weights;
    weights.write(Gated ? "gate_up.0.weight" : "up.0.weight",
                  Gated ? mox_test::gate_and_up(g.tensor("param.gate"), g.tensor("param.up"))
                        : mox_test::transposed(g.tensor("param.up")));
    weights.write("down.0.weight", mox_test::transposed(g.tensor("param.down")));
    const auto x = g.tensor("in.x");
    std::vector<double> hidden;
    const auto look = [&](const mox::observation<double>& seen) {
        if (seen.index == 1) hidden = flat<double>(seen.x);
    };
    mox::tape<net, double> tape;
    tape.observe(look);
    mox::infer<net, double>(
        weights, mox::matrix_view<const double>(x.values.data(), static_cast<mox::index_t>(x.shape[0]), D),
        tape);
    CHECK(distance(hidden, g.tensor("out.h").values) < 1e-12);
    CHECK(mox_test::unread(name) == mox_test::nothing);
}

// Sums of up to 13 products of numbers near 1: some 30 roundings of 6e-8.
constexpr double float_bound = 4e-6;

}  // namespace

TEST_CASE("golden: swiglu", "[golden][ffn]") {
    check_ffn<mox::swiglu<12, 10>, double>("ffn-swiglu", 1e-12);
    check_ffn<mox::swiglu<12, 10>, float>("ffn-swiglu", float_bound);
    check_hidden<12, 10, mox::activation::silu, true>("ffn-swiglu");
}

TEST_CASE("golden: geglu", "[golden][ffn]") {
    check_ffn<mox::gated_ffn<6, 9, mox::activation::gelu>, double>("ffn-geglu", 1e-12);
    check_ffn<mox::gated_ffn<6, 9, mox::activation::gelu>, float>("ffn-geglu", float_bound);
    check_hidden<6, 9, mox::activation::gelu, true>("ffn-geglu");
}

TEST_CASE("golden: relu, with a token of zeros", "[golden][ffn]") {
    check_ffn<mox::mlp<9, 13, mox::activation::relu>, double>("ffn-relu", 1e-12);
    check_ffn<mox::mlp<9, 13, mox::activation::relu>, float>("ffn-relu", float_bound);
    check_hidden<9, 13, mox::activation::relu, false>("ffn-relu");
}

TEST_CASE("golden reader refuses damaged files", "[golden]") {
    const auto file = [](const std::string& header, std::size_t data) {
        std::vector<char> bytes(8, '\0');
        bytes[0] = static_cast<char>(header.size());
        bytes.insert(bytes.end(), header.begin(), header.end());
        bytes.resize(bytes.size() + data);
        return bytes;
    };
    const std::string one = R"({"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}})";
    CHECK(golden("ok", file(one, 16)).tensor("a").values == std::vector<double>{0, 0});
    CHECK_THROWS(golden("ok", file(one, 16)).tensor("b"));
    CHECK_THROWS(golden("ok", file(one, 16)).integers("a"));
    CHECK_THROWS(golden("short data", file(one, 15)).tensor("a"));
    CHECK_THROWS(golden("wrong shape", file(R"({"a":{"dtype":"F64","shape":[3],"data_offsets":[0,16]}})", 16))
                     .tensor("a"));
    CHECK_THROWS(golden("no json", file("{", 0)));
    CHECK_THROWS(golden("empty", std::vector<char>{}));
    CHECK_THROWS(golden("long header", std::vector<char>{'\x7f', 0, 0, 0, 0, 0, 0, 0, '{', '}'}));
    CHECK_THROWS(golden("no such case"));
}

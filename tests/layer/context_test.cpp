#include <mox/layer/context.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {
struct small_record {
    int a;
};
struct large_record {
    double a[9];
};
}  // namespace

TEST_CASE("records: last in, first out, by type", "[layer][context]") {
    record_stack s;
    CHECK(s.empty());
    s.push(small_record{1});
    s.push(large_record{{1, 2, 3, 4, 5, 6, 7, 8, 9}});
    s.push(small_record{3});
    CHECK(s.pop<small_record>().a == 3);
    CHECK(s.pop<large_record>().a[8] == 9);
    CHECK_FALSE(s.empty());
    CHECK(s.pop<small_record>().a == 1);
    CHECK(s.empty());
}

TEST_CASE("records: another type or an empty stack is refused", "[layer][context]") {
    record_stack s;
    CHECK_THROWS_AS(s.pop<small_record>(), error);
    s.push(small_record{1});
    CHECK_THROWS_AS(s.pop<large_record>(), error);
    CHECK(s.pop<small_record>().a == 1);
    s.push(small_record{1});
    s.clear();
    CHECK_THROWS_AS(s.pop<small_record>(), error);
}

TEST_CASE("records: backward without forward is an error", "[layer][context]") {
    using net = linear<2, 2>;
    const params<net, float> w;
    params<net, float> g;
    tape<net, float> t;
    CHECK_THROWS_AS((backward<net, float>(w, t, g)), error);
    const std::vector<float> x(2);
    infer<net, float>(w, matrix_view<const float>(x.data(), 1, 2), t);
    CHECK_THROWS_AS((backward<net, float>(w, t, g)), error);
    forward<net, float>(w, matrix_view<const float>(x.data(), 1, 2), t);
    CHECK_NOTHROW(backward<net, float>(w, t, g));
    CHECK_THROWS_AS((backward<net, float>(w, t, g)), error);
}

TEST_CASE("context: rows are aligned and padded to cache lines", "[layer][context]") {
    arena saved, scratch;
    context<float> ctx;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    const auto a = ctx.activation(3, 17);
    CHECK(a.rows == 3);
    CHECK(a.cols == 17);
    CHECK(a.stride == 32);
    CHECK(reinterpret_cast<std::uintptr_t>(a.row(1)) % alignment == 0);
    const auto b = ctx.temporary(2, 16);
    CHECK(b.stride == 16);
    CHECK_FALSE(ctx.saving());
    CHECK_FALSE(ctx.decoding());
}

TEST_CASE("rotary cache: grows, and keeps tables of different bases apart", "[layer][context]") {
    rotary_cache<double> cache;
    const double* t = cache.table(4, 100, 3);
    CHECK(t[0] == 1.0);
    CHECK(t[1] == 0.0);
    CHECK(t[2 * 4 + 0] == Approx(std::cos(2.0)).epsilon(1e-15));
    CHECK(t[2 * 4 + 3] == Approx(std::sin(2.0 / 10)).epsilon(1e-15));
    t = cache.table(4, 100, 1000);
    CHECK(t[999 * 4 + 2] == Approx(std::cos(99.9)).epsilon(1e-12));
    const double* other = cache.table(4, 10000, 3);
    CHECK(other[2 * 4 + 3] == Approx(std::sin(2.0 / 100)).epsilon(1e-15));
    CHECK(cache.table(4, 100, 10)[2 * 4 + 3] == Approx(std::sin(0.2)).epsilon(1e-15));
}

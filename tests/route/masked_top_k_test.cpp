#include <mox/route/masked_top_k.hpp>

#include <limits>
#include <vector>

#include <mox/route/top_k.hpp>

#include "../support/catch.hpp"

using namespace mox;
using Catch::Matchers::Contains;

namespace {

struct masked {
    std::vector<double> logits;
    std::vector<std::uint8_t> allowed;
    std::vector<row_t> offsets;
    index_t experts;

    template <index_t K>
    std::vector<row_t> choose() const {
        route::router_view<double> r;
        const auto tokens = static_cast<index_t>(logits.size()) / experts;
        r.logits = {logits.data(), tokens, experts};
        r.experts = experts;
        r.slots = K;
        r.sequences = ssize_of(std::span(offsets)) - 1;
        r.sequence_offsets = offsets.data();
        if (!allowed.empty())
            r.allowed = {allowed.data(), r.sequences, static_cast<index_t>(allowed.size()) / r.sequences};
        std::vector<row_t> chosen(static_cast<std::size_t>(tokens * K), 77);
        route::masked_top_k<K>::select({}, r, chosen.data());
        return chosen;
    }
};

}  // namespace

TEST_CASE("masked_top_k: the best of the allowed, best first, and of few all", "[route][masked_top_k]") {
    const masked m{{1, 5, 3, 4, 9, 8, 7, 6, 1, 2, 3, 4}, {1, 0, 1, 1, 0, 0, 1, 0}, {0, 1, 3}, 4};
    CHECK(m.choose<2>() == std::vector<row_t>{3, 2, 2, -1, 2, -1});
    CHECK(m.choose<1>() == std::vector<row_t>{3, 2, 2});
    CHECK(m.choose<4>() == std::vector<row_t>{3, 2, 0, -1, 2, -1, -1, -1, 2, -1, -1, -1});
}

TEST_CASE("masked_top_k: ties, nothing allowed, no tokens", "[route][masked_top_k]") {
    // A router that starts at zero: the lowest allowed indices.
    CHECK(masked{std::vector<double>(5), {0, 1, 0, 1, 1}, {0, 1}, 5}.choose<2>() == std::vector<row_t>{1, 3});
    CHECK(masked{{1, 2, 3}, {0, 0, 0}, {0, 1}, 3}.choose<2>() == std::vector<row_t>{-1, -1});
    CHECK(masked{{}, {}, {0}, 3}.choose<2>().empty());
    // NaN is smaller than everything, as without a mask.
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK(masked{{nan, 1, -2, nan}, {1, 0, 1, 1}, {0, 1}, 4}.choose<3>() == std::vector<row_t>{2, 0, 3});
}

TEST_CASE("masked_top_k: with everything allowed it is top_k", "[route][masked_top_k]") {
    masked m{{}, std::vector<std::uint8_t>(18, 1), {0, 5, 5, 20}, 6};
    for (int i = 0; i < 120; ++i) m.logits.push_back((i * 37) % 11);
    std::vector<row_t> expected(60);
    route::top_k<3>::select<double>({}, {m.logits.data(), 20, 6}, expected.data());
    CHECK(m.choose<3>() == expected);
}

TEST_CASE("masked_top_k: says what the batch lacks", "[route][masked_top_k]") {
    CHECK_THROWS_WITH((masked{{1, 2}, {}, {0, 1}, 2}.choose<1>()), Contains("batch::with_allowed_experts"));
    CHECK_THROWS_WITH((masked{{1, 2}, {1, 1, 1}, {0, 1}, 2}.choose<1>()),
                      Contains("must have 2 columns, one per output of the router, got 3"));
}

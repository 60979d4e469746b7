#include <mox/layer/blocks.hpp>

#include <string>
#include <utility>
#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/frozen.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/params.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

using map = linear<8, 8, bias::with>;
using ranges = std::vector<std::pair<index_t, index_t>>;

template <class Net, class T = double>
ranges blocks_of() {
    ranges all;
    for_each_block<Net, T>([&](index_t begin, index_t end) { all.emplace_back(begin, end); });
    return all;
}

// Where the tensors whose paths begin with `prefix` lie.
template <class Net>
std::pair<index_t, index_t> tensors_under(const std::string& prefix) {
    index_t begin = -1, end = -1;
    for (const auto& t : params<Net, double>::tensors()) {
        if (!t.spec.trained || t.path.rfind(prefix, 0) != 0) continue;
        if (begin < 0) begin = t.offset;
        end = t.offset + tensor_elements<double>(t.spec);
    }
    return {begin, end};
}

}  // namespace

TEST_CASE("blocks: none without a repeat, none with nothing to train", "[layer][blocks]") {
    STATIC_REQUIRE(block_count<linear<2, 3>>() == 0);
    STATIC_REQUIRE(block_count<stack<map, residual<map>>>() == 0);
    STATIC_REQUIRE(block_count<frozen<repeat<3, map>>>() == 0);
    STATIC_REQUIRE(block_count<repeat<3, frozen<map>>>() == 0);
    CHECK(blocks_of<frozen<repeat<3, map>>>().empty());
}

TEST_CASE("blocks: the repetitions of the outermost repeats, in order and side by side", "[layer][blocks]") {
    using inner = repeat<2, residual<map>>;
    using net = stack<linear<5, 8>, repeat<3, stack<map, inner>>, residual<rms_norm<8>, repeat<1, map>>,
                      frozen<repeat<2, map>>, linear<8, 7>>;
    STATIC_REQUIRE(block_count<net>() == 4);
    const auto found = blocks_of<net>();
    REQUIRE(found.size() == 4);
    for (std::size_t b = 0; b < 3; ++b) {
        const auto own = tensors_under<net>("1." + std::to_string(b) + ".");
        CHECK(found[b].first == own.first);
        CHECK(found[b].second >= own.second);
        if (b > 0) CHECK(found[b].first == found[b - 1].second);
    }
    const auto last = tensors_under<net>("2.1.");
    CHECK(found[3].first == last.first);
    CHECK(found[3].second >= last.second);
    // Blocks hold nothing of the layers between them.
    CHECK(found[2].second <= tensors_under<net>("2.0").first);
    CHECK(found[3].second <= tensors_under<net>("4").first);
}

TEST_CASE("blocks: what is frozen inside a block takes no room in it", "[layer][blocks]") {
    using half = repeat<2, stack<frozen<map>, residual<map>>>;
    using whole = repeat<2, residual<map>>;
    CHECK(blocks_of<half>() == blocks_of<whole>());
    // The place of a network in a larger one only moves its blocks.
    const ranges alone = blocks_of<whole>();
    const index_t before = parameter_extent<map, double>().trained;
    const ranges behind = blocks_of<stack<map, whole>>();
    REQUIRE(behind.size() == alone.size());
    for (std::size_t b = 0; b < alone.size(); ++b)
        CHECK(behind[b] == std::pair{alone[b].first + before, alone[b].second + before});
}

TEST_CASE("block_gradients: only the first number of a block that rests is skipped", "[layer][blocks]") {
    double g[10] = {};
    const std::vector<block_range> two{{1, 4, true}, {4, 9, false}};
    const block_gradients<double> gradients{g, two};
    CHECK_FALSE(gradients.skip(g));
    CHECK_FALSE(gradients.skip(g + 1));
    CHECK(gradients.skip(g + 4));
    CHECK_FALSE(gradients.skip(g + 5));
    CHECK_FALSE(block_gradients<double>{}.skip(g));
    CHECK_FALSE(block_gradients<double>{}.skip(nullptr));
}

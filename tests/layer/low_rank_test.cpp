#include <mox/layer/low_rank.hpp>

#include <mox/layer/attention.hpp>
#include <mox/layer/mixlora.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// Members of a template argument, read one by one at run time as layers do. Clang 14 reads another number
// than it computed with where a double follows a flag and a flag is the last member, too.
template <adapter_spec Spec>
void check_adapter(adapter_spec wanted) {
    double alpha = Spec.alpha, dropout = Spec.dropout;
    index_t rank = Spec.rank, kept = Spec.kept_ranks;
    bool stabilised = Spec.rank_stabilised, gaussian = Spec.gaussian;
    CHECK(rank == wanted.rank);
    CHECK(alpha == wanted.alpha);
    CHECK(stabilised == wanted.rank_stabilised);
    CHECK(gaussian == wanted.gaussian);
    CHECK(dropout == wanted.dropout);
    CHECK(kept == wanted.kept_ranks);
}

template <mixlora_spec Spec>
void check_around(mixlora_spec wanted) {
    double alpha = Spec.adapter.alpha, dropout = Spec.adapter.dropout;
    bool gate = Spec.gate, up = Spec.up, down = Spec.down, gated = Spec.gated;
    CHECK(alpha == wanted.adapter.alpha);
    CHECK(dropout == wanted.adapter.dropout);
    CHECK(gate == wanted.gate);
    CHECK(up == wanted.up);
    CHECK(down == wanted.down);
    CHECK(gated == wanted.gated);
}

template <attention_spec Spec>
void check_heads(attention_spec wanted) {
    index_t width = Spec.width, dim = Spec.head_dim;
    bool rotary = Spec.rotary, interleaved = Spec.interleaved;
    double rotary_base = Spec.rotary_base;
    CHECK(width == wanted.width);
    CHECK(dim == wanted.head_dim);
    CHECK(rotary == wanted.rotary);
    CHECK(interleaved == wanted.interleaved);
    CHECK(rotary_base == wanted.rotary_base);
}

constexpr adapter_spec plain{.rank = 5, .alpha = 8, .dropout = 0.25},
    full{.rank = 5, .alpha = 8, .rank_stabilised = true, .gaussian = true, .dropout = 0.25, .kept_ranks = 3};
constexpr mixlora_spec around{.adapter = plain, .up = false};
constexpr attention_spec heads{.width = 12, .heads = 4, .rotary = false, .rotary_base = 500};

}  // namespace

TEST_CASE("low_rank: a specification in a type is the same at run time", "[layer][low_rank]") {
    check_adapter<plain>({.rank = 5, .alpha = 8, .dropout = 0.25});
    check_adapter<full>(full);
    check_around<around>({.adapter = {.rank = 5, .alpha = 8, .dropout = 0.25}, .up = false});
    check_heads<heads>({.width = 12, .heads = 4, .rotary = false, .rotary_base = 500});
}

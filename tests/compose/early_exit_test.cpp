#include <mox/compose/early_exit.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

namespace {

template <int I>
using block = residual<linear<4, 4, bias::with>>;
using leave = exit_by<route::learned, keep_permille<500>, sampling::whole_sequence>;
using net = early_exit<leave, block<0>, block<1>, block<2>>;

}  // namespace

TEST_CASE("early exit: it is depth inside depth", "[compose][early_exit]") {
    using inner = depth<block<2>, route::learned, keep_permille<500>, sampling::whole_sequence>;
    using outer = depth<stack<block<1>, inner>, route::learned, keep_permille<500>, sampling::whole_sequence>;
    static_assert(std::is_same_v<net, stack<block<0>, outer>>);
    static_assert(std::is_same_v<early_exit<leave, block<0>>, block<0>>);
}

TEST_CASE("early exit: who leaves does not come back", "[compose][early_exit]") {
    const auto w = mox_test::random_params<net, double>(1);
    tape<net, double> t;
    mox_test::run_forward(w, mox_test::normal_numbers<double>(32, 1), batch::equal(1, 8), t);
    REQUIRE(t.routing().size() == 2);
    // The outer decision of 8 keeps 4, the inner one of those 4 keeps 2.
    const routing_record &first = t.routing()[0], &second = t.routing()[1];
    CHECK((first.rows == 8 && first.selected_count == 4));
    CHECK((second.rows == 4 && second.selected_count == 2));
    const std::vector<row_t> stayed(first.selected, first.selected + 4);
    CHECK(std::vector<row_t>(second.token, second.token + 4) == stayed);
}

TEST_CASE("early exit: gradients", "[compose][early_exit]") {
    const auto r = gradcheck<net>({}, batch::ragged({7, 1, 0, 4}));
    INFO(r.message);
    CHECK(r.passed);
}

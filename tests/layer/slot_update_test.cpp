#include <mox/layer/slot_update.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::normal_numbers;

TEST_CASE("dropout of a map: copies, and the way back adds through the same mask", "[layer][dropout]") {
    arena saved, scratch;
    context<double> ctx;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    const auto x = normal_numbers<double>(60, 1);
    const matrix_view<const double> from(x.data(), 10, 6);
    CHECK(detail::dropped_rows<double>(ctx, {}, 2, from).data == x.data());
    const dropout_draw half{3, 4, 0.5};
    const auto one = mox_test::flat(detail::dropped_rows<double>(ctx, half, 2, from)),
               again = mox_test::flat(detail::dropped_rows<double>(ctx, half, 2, from)),
               other = mox_test::flat(detail::dropped_rows<double>(ctx, half, 4, from));
    CHECK(one == again);
    CHECK(one != other);
    for (std::size_t i = 0; i < 60; ++i) CHECK((one[i] == 0 || one[i] == 2 * x[i]));
    for (const bool drops : {false, true}) {
        std::vector<double> to(60, 7.0);
        detail::through_dropout(ctx, drops ? half : dropout_draw{}, 2, matrix_view<double>(to.data(), 10, 6),
                                [&](matrix_view<double> part) {
                                    for (index_t t = 0; t < 10; ++t) {
                                        for (index_t j = 0; j < 6; ++j) part(t, j) += from(t, j);
                                    }
                                });
        for (std::size_t i = 0; i < 60; ++i) CHECK(to[i] == 7 + (drops ? one[i] : x[i]));
    }
}

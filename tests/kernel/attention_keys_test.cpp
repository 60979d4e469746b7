#include <mox/kernel/attention_keys.hpp>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using namespace mox::kernel;
using mox_test::guarded_rows;

TEST_CASE("attention keys: panels and rows of every sequence and head", "[kernel][attention]") {
    const row_t query[] = {0, 1, 1, 1, 2}, key[] = {0, 3, 3, 603, 620};
    const attention_rows rows{query, key, 4};
    const attention_shape shape{4, 2, 5, true, 0.5};
    guarded_rows<float> k(620, 10, 1), v(620, 10, 2);
    thread_pool pool(3);
    const index_t dp = round_up(5, simd::lanes<float>);
    const float factor = kernel::detail::score_factor<float>(shape);
    CHECK(factor == Approx(0.5 * 1.4426950408889634));
    for (const bool with_values : {true, false}) {
        arena scratch;
        const kernel::detail::packed_keys<float, simd::default_arch> packed(scratch, shape, rows,
                                                                            with_values);
        packed.pack(pool, k.view(), v.view());
        bool same = true;
        for (index_t s = 0; s < rows.sequences; ++s) {
            for (index_t h = 0; h < shape.kv_heads; ++h) {
                const auto panels = packed.keys(s, h);
                const index_t n = key[s + 1] - key[s];
                CHECK(panels.cols == round_up(n, simd::lanes<float>));
                for (index_t j = 0; j < panels.cols; ++j) {
                    for (index_t c = 0; c < 5; ++c) {
                        const float expected =
                            j < n ? factor * static_cast<float>(k(key[s] + j, h * 5 + c)) : 0.0f;
                        same &= panels(c, j) == expected;
                    }
                }
                for (index_t j = 0; with_values && j < n; ++j) {
                    for (index_t c = 0; c < dp; ++c) {
                        const double expected = c < 5 ? v(key[s] + j, h * 5 + c) : 0.0;
                        same &= static_cast<double>(packed.values(s, h)[j * dp + c]) == expected;
                    }
                }
            }
        }
        CHECK(same);
    }
}

// The mixture-of-experts layer on weights as a user may hold them, row-major and never packed. Rows are still
// indexed and not gathered, and the outputs added where they belong.

#include <mox/kernel/row_major.hpp>

#include "peers/gathered_moe.hpp"

namespace {

using namespace bench;

struct row_major : unprepared<row_major> {
    static constexpr const char* name = "mox";

    void product(form f, view a, view b, target c, bool add = false) {
        if (f != form::nn) throw mox::error("row-major weights are measured forward only");
        mox::kernel::product_row_major<float>(mox::kernel::row_source<const float>(a), 0, a.rows, b,
                                              {c, c.cols, nullptr, add});
    }
};

struct unpacked_moe : gathered_moe<row_major> {
    std::vector<mox::row_t> tokens;
    std::vector<float> gates;

    using gathered_moe::gathered_moe;

    void infer() {
        using mox::kernel::row_source;
        route();
        y.setZero();
        const target sum(y.data(), s.tokens, s.width);
        for (index_t e = 0; e < s.experts; ++e) {
            tokens.clear();
            gates.clear();
            for (const slot& c : lists[at(e)]) {
                tokens.push_back(static_cast<mox::row_t>(c.token));
                gates.push_back(c.gate);
            }
            const auto n = static_cast<index_t>(tokens.size());
            pre.resize(n, 2 * s.hidden);
            hidden.resize(n, s.hidden);
            mox::kernel::product_row_major<float>(
                row_source<const float>(x(), tokens.data()), 0, n, gate_up_of(p.gate_up, e),
                {row_source<float>(target(pre.data(), n, 2 * s.hidden)), 2 * s.hidden, nullptr, false});
            for (index_t i = 0; i < n; ++i) {
                mox::kernel::gated_tile_row<float, mox::simd::default_arch, mox::activation::silu>(
                    pre.data() + i * 2 * s.hidden, 2 * s.hidden, hidden.data() + i * s.hidden);
            }
            mox::kernel::product_row_major<float>(
                row_source<const float>(view(hidden.data(), n, s.hidden)), 0, n, down_of(p.down, e),
                {row_source<float>(sum, tokens.data()), s.width, gates.data(), true});
        }
    }
};

const registration add([](std::vector<group>& groups) {
    for (const moe_shape& shape : {moe_shapes[1], moe_shapes[0]}) {
        groups.push_back({"moe_swiglu/row_major/" + shape.name(),
                          shape.flops(),
                          limit::fma_f32,
                          {{shape.tokens == 64 ? 0.70 : 0.0, 0, ""}, {.against = 1.2, .peer = "eigen"}},
                          {moe_competitor("mox", shape, &unpacked_moe::infer, float_bound)}});
    }
});

}  // namespace

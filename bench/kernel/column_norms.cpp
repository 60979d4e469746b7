// Column lengths of a map with a low-rank update (DoRA), beside element by element.

#include <cmath>
#include <string>

#include "support/steps.hpp"

namespace {

using mox::index_t;

struct norms {
    index_t in, out, rank;
    mox::buffer<float> w, a, b, norm;

    norms(index_t in_, index_t out_, index_t rank_)
        : in(in_), out(out_), rank(rank_), w(bench::random_rows(in, out, 1)),
          a(bench::random_rows(in, rank, 2)), b(bench::random_rows(rank, out, 3)), norm(out) {}

    mox::kernel::panel_view<const float> map() const { return {w.data(), in, out}; }
    mox::kernel::panel_view<const float> up() const { return {b.data(), rank, out}; }

    void by_tiles() {
        mox::kernel::column_norms<float>(map(), 0, {a.data(), in, rank}, up(), out, 0, up().panels(),
                                         norm.data());
    }
    void by_elements() {
        const auto v = map(), u = up();
        for (index_t o = 0; o < out; ++o) norm[o] = 0;
        for (index_t i = 0; i < in; ++i) {
            for (index_t o = 0; o < out; ++o) {
                float sum = 0;
                for (index_t r = 0; r < rank; ++r) sum += a[i * rank + r] * u(r, o);
                sum += v(i, o);
                norm[o] += sum * sum;
            }
        }
        for (index_t o = 0; o < out; ++o) norm[o] = std::sqrt(norm[o]);
    }
};

const bench::registration add([](std::vector<bench::group>& groups) {
    for (const index_t rank : {8, 16, 64}) {
        groups.push_back({"column_norms/512x1024_rank" + std::to_string(rank),
                          2.0 * 512 * 1024 * static_cast<double>(rank + 1),
                          bench::limit::fma_f32,
                          {{0, 4.0, "by_elements"}},
                          {{"mox", bench::run(&norms::by_tiles, 512, 1024, rank)},
                           {"by_elements", bench::run(&norms::by_elements, 512, 1024, rank)}}});
    }
});

}  // namespace

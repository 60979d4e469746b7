// The register tiles at their full size reach their share of what the machine can do; else a compiler has
// done something to them. Operands lie in the first cache levels, and the best of many short bursts counts,
// in turns with the bursts that measure the machine: a busy machine makes this take longer, not fail.
//
//   throughput           all tiles
//   throughput --slow    a tile that leaves its accumulators in memory, which must be found out

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <string_view>
#include <vector>

#include <mox/kernel/attention_tiles.hpp>
#include <mox/kernel/packed_tile.hpp>
#include <mox/kernel/tile.hpp>

#include "full_size.hpp"
#include "support/limits.hpp"

using namespace mox;
using namespace mox_test;

namespace {

constexpr index_t width = kernel::panel_width<float, arch>;

// Steps of a tile: a panel of them takes 24 KB at most.
constexpr index_t steps = 96;
// Columns of the dot-product tile: its sums across registers weigh little, its rows take 40 KB at most.
constexpr index_t dot_columns = 1024;

// Calls a function that the compiler knows nothing about: for arguments it knows it would make another tile.
template <auto Function, class... Args>
void call(Args... args) {
    auto function = Function;
    asm volatile("" : "+r"(function));
    function(args...);
}

// Every word reads as the float 0.5, as two bf16 of 0.5 and as four bytes.
struct operands {
    buffer<float> x, panel, next, out;
    const float* row[rows];
    const float* token_x[steps];
    const float* token_y[steps];
    float* to[rows];
    kernel::packed_row<float> codes[rows];
    std::int32_t sums[16] = {};  // of the groups of 64 in 8 * steps inputs
    float zeros[rows] = {};

    operands() : x(1 << 13), panel(1 << 14), next(1 << 14), out(1 << 12) {
        for (buffer<float>* b : {&x, &panel, &next})
            std::fill_n(b->data(), b->size(), std::bit_cast<float>(0x3f003f00));
        constexpr index_t stride = dot_columns + simd::lanes<float>;
        for (index_t r = 0; r < rows; ++r) {
            row[r] = x.data() + r * stride;
            to[r] = out.data() + r * width;
            codes[r] = {reinterpret_cast<const std::byte*>(row[r]), 0.5f, sums};
        }
        for (index_t t = 0; t < steps; ++t) {
            token_x[t] = x.data() + 8 * t;
            token_y[t] = panel.data() + width * t;
        }
    }
    const std::byte* packed() const { return reinterpret_cast<const std::byte*>(panel.data()); }
};

// What the guard is about: a product tile whose accumulators lie in memory between its steps.
[[gnu::noinline]] void slow_product(const float* const* x, const float* b, index_t k_size, float* const* c) {
    simd::batch<float> acc[rows][vectors];
    for (auto& row : acc) std::fill(std::begin(row), std::end(row), simd::batch<float>(0.0f));
    for (index_t k = 0; k < k_size; ++k, b += width) {
        for (index_t r = 0; r < rows; ++r) {
            for (index_t v = 0; v < vectors; ++v) {
                const auto part = simd::load<float, arch>(b + v * simd::lanes<float>);
                acc[r][v] = simd::fma(simd::batch<float>(x[r][k]), part, acc[r][v]);
            }
        }
        asm volatile("" : : "r"(acc) : "memory");
    }
    for (index_t r = 0; r < rows; ++r) {
        for (index_t v = 0; v < vectors; ++v) simd::store(c[r] + v * simd::lanes<float>, acc[r][v]);
    }
}

// The burst that measures the machine, and the best rate so far of it or of a tile of its kind.
struct limit {
    const char* name;
    double (*burst)();
    double best = 0;
};

struct tile {
    const char* name;
    limit* of;
    double floor;       ///< share of the limit it must reach
    double operations;  ///< per call
    void (*call)(operands&);
    double best = 0;

    double share() const { return best / of->best; }
};

template <class Burst>
double rate(Burst&& burst) {
    const auto start = std::chrono::steady_clock::now();
    const double operations = burst();
    return operations / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

limit f32{"f32", [] { return bench::fma_burst(); }}, bf16{"bf16", [] { return bench::bf16_burst(); }},
    int8{"int8", [] { return bench::int8_burst(); }};

// Tiles that begin and end with more than a few stores reach less, and those that widen codes first even less
// where a core makes two dot products a cycle: 0.54 to 0.61 of them on an Emerald Rapids, with either
// compiler. Accumulators in memory: 0.4 and less.
constexpr double most = 0.7, less = 0.55, widening = 0.48;

std::vector<tile> tiles() {
    constexpr double product = 2.0 * rows * width * steps;
    constexpr bool bf16_dot = simd::has_bf16_dot<arch>;
    std::vector<tile> all = {
        {"product", &f32, most, product,
         [](operands& o) {
             call<&kernel::tile_product<float, arch, rows, vectors>>(o.row, o.panel.data(), width, steps,
                                                                     o.to, nullptr, false);
         }},
        {"product_ahead", &f32, most, product,
         [](operands& o) {
             call<&kernel::tile_product_ahead<float, arch, rows, vectors>>(
                 o.row, o.panel.data(), width, steps, o.to, nullptr, false, o.next.data(), o.panel.data(),
                 steps);
         }},
        {"transposed", &f32, less, 2.0 * side * side * dot_columns,
         [](operands& o) {
             const kernel::panel_view<const float, arch> w(o.panel.data(), side, dot_columns);
             call<&kernel::tile_transposed<float, arch, side, side>>(o.row, w, 0, o.to, false);
         }},
        {"outer", &f32, most, product,
         [](operands& o) {
             call<&kernel::tile_outer<float, arch, rows, vectors>>(o.token_x, 0, o.token_y, 0, steps,
                                                                   o.out.data(), width, false);
         }},
        {"weighted", &f32, most, product,
         [](operands& o) {
             call<&kernel::detail::tile_weighted<float, arch, rows, vectors>>(
                 o.x.data(), steps, o.panel.data(), width, steps, o.zeros, o.out.data(), width);
         }},
        {"bf16", bf16_dot ? &bf16 : &f32, bf16_dot ? most : less, 4.0 * bf16_rows * width * steps,
         [](operands& o) {
             call<&kernel::tile_bf16<arch, bf16_rows, vectors>>(o.codes, o.packed(), 2 * steps, nullptr,
                                                                o.out.data(), width);
         }},
    };
    if constexpr (simd::has_byte_dot<arch>) {
        all.push_back({"int8", &int8, most, 8.0 * int8_rows * width * steps, [](operands& o) {
                           call<&kernel::tile_int8<arch, int8_rows, vectors>>(o.codes, o.packed(), 4 * steps,
                                                                              nullptr, o.out.data(), width);
                       }});
        all.push_back({"int4", &int8, widening, 16.0 * int4_rows * width * steps, [](operands& o) {
                           call<&kernel::tile_int4<centred, arch, int4_rows, vectors>>(
                               o.codes, o.packed(), 8 * steps, nullptr, o.out.data(), width);
                       }});
        all.push_back(
            {"int4, moving zero", &int8, widening, 16.0 * int4_rows * width * steps, [](operands& o) {
                 call<&kernel::tile_int4<moving, arch, int4_rows, vectors>>(o.codes, o.packed(), 8 * steps,
                                                                            nullptr, o.out.data(), width);
             }});
    }
    // What no burst measures is not compared.
    std::erase_if(all, [](const tile& t) { return t.of->burst() == 0; });
    return all;
}

}  // namespace

int main(int argc, char** argv) {
    const bool slow = argc > 1 && std::string_view(argv[1]) == "--slow";
    std::vector<tile> all;
    if (slow) {
        all.push_back({"accumulators in memory", &f32, most, 2.0 * rows * width * steps,
                       [](operands& o) { slow_product(o.row, o.panel.data(), steps, o.to); }});
    } else {
        all = tiles();
    }
    operands data;
    std::vector<limit*> limits = {&f32, &bf16, &int8};
    std::erase_if(limits, [&](limit* l) {
        return std::none_of(all.begin(), all.end(), [l](const tile& t) { return t.of == l; });
    });

    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [start] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    // Enough to see the machine at its best; while a tile falls short, as long as patience lasts.
    constexpr int least = 100;
    const double patience = slow ? 0.5 : 6;
    bool reached = false;
    for (int round = 0; (round < least || !reached) && seconds() < patience; ++round) {
        for (limit* l : limits) l->best = std::max(l->best, rate(l->burst));
        for (tile& t : all) {
            // About 20 us.
            const int calls = static_cast<int>(20e-6 * t.of->best / t.operations) + 1;
            t.best = std::max(t.best, rate([&] {
                                  for (int i = 0; i < calls; ++i) t.call(data);
                                  return calls * t.operations;
                              }));
        }
        for (tile& t : all) t.of->best = std::max(t.of->best, t.best);
        reached = std::all_of(all.begin(), all.end(), [](const tile& t) { return t.share() >= t.floor; });
    }

    for (const limit* l : limits) std::printf("peak of %s: %.0f GFLOP/s\n", l->name, l->best / 1e9);
    for (const tile& t : all) {
        std::printf("%-22s %.2f of the peak of %s\n", t.name, t.share(), t.of->name);
    }
    for (const tile& t : all) {
        if (t.share() < t.floor) std::printf("%s: too slow, expected at least %.2f\n", t.name, t.floor);
    }
    std::printf("%.1f s\n", seconds());
    return reached ? 0 : 1;
}

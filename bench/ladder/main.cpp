// The ladder from three loops to the library's product of gathered rows, each step as a share of the FMA peak
// measured between the steps. Sixty-four weight matrices in turn, so that weights come from memory, not from
// a cache: mox_ladder [ROUNDS]

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/core/random.hpp>

#include "01_naive.hpp"
#include "02_loop_order.hpp"
#include "03_accumulators.hpp"
#include "04_panels.hpp"
#include "05_register_tile.hpp"
#include "06_rows_by_pointer.hpp"
#include "07_library.hpp"
#include "support/limits.hpp"

namespace {

using ladder::index_t;

constexpr index_t rows = 64, tokens = 512, in = 512, out = 512, matrices = 64;

struct step {
    const char* name;
    void (*run)(const ladder::problem&);
    int share;  // of the matrices: slow steps see fewer
};

constexpr step steps[] = {{"1 naive", &ladder::naive, 16},
                          {"2 loop order", &ladder::loop_order, 4},
                          {"3 accumulators", &ladder::accumulators, 1},
                          {"4 panels", &ladder::panels, 1},
                          {"5 register tile", &ladder::register_tile, 1},
                          {"6 rows by pointer", &ladder::rows_by_pointer, 1},
                          {"7 library", &ladder::library, 1}};

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

mox::buffer<float> numbers(index_t size, std::uint64_t seed) {
    mox::buffer<float> b(size);
    const mox::random_stream stream(seed, 0);
    for (index_t i = 0; i < size; ++i)
        b[i] = static_cast<float>(stream.normal(static_cast<std::uint64_t>(i)));
    return b;
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
    const mox::buffer<float> x = numbers(tokens * in, 1), w = numbers(matrices * in * out, 2);
    mox::buffer<float> panels(w.size()), copy(rows * in), y(rows * out);
    for (index_t m = 0; m < matrices; ++m) {
        const mox::kernel::panel_view<float> to(panels.data() + m * in * out, in, out);
        for (index_t k = 0; k < in; ++k) {
            for (index_t n = 0; n < out; ++n) to(k, n) = w[(m * in + k) * out + n];
        }
    }
    std::vector<mox::row_t> index;
    for (index_t i = 0; i < rows; ++i) index.push_back(static_cast<mox::row_t>((i * 197 + 5) % tokens));

    const auto problem = [&](index_t m) {
        return ladder::problem{rows,
                               in,
                               out,
                               x.data(),
                               index.data(),
                               w.data() + m * in * out,
                               panels.data() + m * in * out,
                               copy.data(),
                               y.data()};
    };

    // Every step computes the product before it is timed.
    for (const step& s : steps) {
        std::fill_n(y.data(), y.size(), -1.0f);
        s.run(problem(3));
        for (index_t i = 0; i < rows; ++i) {
            for (index_t n = 0; n < out; ++n) {
                double sum = 0;
                for (index_t k = 0; k < in; ++k)
                    sum += static_cast<double>(x[index[static_cast<std::size_t>(i)] * in + k]) *
                           static_cast<double>(w[(3 * in + k) * out + n]);
                if (std::abs(static_cast<double>(y[i * out + n]) - sum) > 1e-3) {
                    std::fprintf(stderr, "step '%s' is wrong at row %td, column %td\n", s.name, i, n);
                    return 1;
                }
            }
        }
    }

    std::vector<std::vector<double>> share(std::size(steps));
    for (int round = 0; round < rounds; ++round) {
        double begin = seconds(), flops = 0;
        for (int i = 0; i < 20; ++i) flops += bench::fma_burst();
        const double peak = flops / (seconds() - begin);
        for (std::size_t s = 0; s < std::size(steps); ++s) {
            const index_t count = matrices / steps[s].share;
            begin = seconds();
            for (index_t m = 0; m < count; ++m) steps[s].run(problem(m));
            share[s].push_back(2.0 * rows * in * out * static_cast<double>(count) / (seconds() - begin) /
                               peak);
        }
    }
    std::printf("%td gathered rows, %td x %td weights from memory, f32\n", rows, in, out);
    std::printf("%-20s %12s %16s\n", "step", "of FMA peak", "of step before");
    for (std::size_t s = 0; s < std::size(steps); ++s) {
        const double now = median(share[s]);
        std::printf("%-20s %12.3f", steps[s].name, now);
        if (s > 0) std::printf(" %14.2f x", now / median(share[s - 1]));
        std::printf("\n");
    }
}

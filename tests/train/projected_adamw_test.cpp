#include <mox/train/projected_adamw.hpp>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using numbers = std::vector<double>;

namespace {

using block = residual<rms_norm<8>, moe<experts<2, swiglu<8, 12>>, route::top_k<1>>,
                       mlp<8, 20, activation::silu, bias::with>>;
using net = stack<linear<8, 8>, repeat<3, block>, linear<8, 7, bias::with>>;
constexpr galore_options rank3{.rank = 3, .interval = 2, .scale = 0.5};
constexpr adamw_options options{.rate = 0.1, .decay = 0.2};

template <class T>
params<net, T> gradients(std::uint64_t seed) {
    params<net, T> g;
    for (const auto& t : params<net, T>::tensors()) {
        const auto v =
            normal_numbers<double>(t.spec.logical_size(), seed + 97 * static_cast<std::uint64_t>(t.ordinal));
        g.write(t, std::vector<T>(v.begin(), v.end()));
    }
    return g;
}

// Tensors of blocks by path, "1.<place in all repetitions>.": residual holds one child per layer of a block.
bool in_block(const std::string& path) { return path.rfind("1.", 0) == 0; }
bool is_projected(const tensor_info& t) {
    return in_block(t.path) && (t.spec.form == storage::panels || t.spec.form == storage::gated_panels) &&
           std::min(t.spec.rows, t.spec.cols) > 3;
}

}  // namespace

TEST_CASE("projected_adamw: matrices of blocks as galore_adamw trains them, all else as adamw does",
          "[train][projected_adamw]") {
    auto w = random_params<net, double>(1), plain = w;
    trainable_mask<net, double> mask;
    projected_adamw<net, double> adam(rank3, options);
    adamw<net, double> reference(options);
    // gate, up and down of two experts, two maps of the other network; the router has two columns.
    CHECK(adam.projected() == 3 * (6 + 2));
    std::map<std::string, std::vector<galore_adamw<double>>> own;
    std::map<std::string, numbers> want;
    for (const auto& t : params<net, double>::tensors()) {
        if (!is_projected(t)) continue;
        const index_t parts = t.spec.count * t.spec.logical_cols() / t.spec.cols;
        for (index_t i = 0; i < parts; ++i)
            own[t.path].emplace_back(t.spec.rows, t.spec.cols, rank3, options);
        want[t.path] = w.read(t);
    }
    CHECK(own.size() == 3 * 4);
    for (index_t step = 0; step < 6; ++step) {
        const std::vector<index_t> chosen{step / 2, (step / 2 + step) % 3};
        mask.only(chosen);
        const auto g = gradients<double>(static_cast<std::uint64_t>(step) + 5);
        adam.step(w, g, mask, 0.5);
        reference.step(plain, g, mask, 0.5);
        for (const auto& t : params<net, double>::tensors()) {
            CAPTURE(step, t.path);
            if (!is_projected(t)) {
                CHECK(w.read(t) == plain.read(t));
                continue;
            }
            bool trained = false;
            for (const auto& r : mask.ranges())
                trained = trained || (r.trains && t.offset >= r.begin && t.offset < r.end);
            if (trained) {
                // [count, rows, gate columns, up columns]
                const auto gradient = g.read(t);
                numbers& v = want[t.path];
                const auto rows = static_cast<std::size_t>(t.spec.rows),
                           cols = static_cast<std::size_t>(t.spec.cols),
                           all = static_cast<std::size_t>(t.spec.logical_cols());
                for (std::size_t i = 0; i < own[t.path].size(); ++i) {
                    const std::size_t first = i / (all / cols) * rows * all + i % (all / cols) * cols;
                    numbers part(rows * cols), slope(rows * cols);
                    for (std::size_t e = 0; e < part.size(); ++e) {
                        part[e] = v[first + e / cols * all + e % cols];
                        slope[e] = gradient[first + e / cols * all + e % cols];
                    }
                    own[t.path][i].step(part, slope, 0.5);
                    for (std::size_t e = 0; e < part.size(); ++e)
                        v[first + e / cols * all + e % cols] = part[e];
                }
            }
            CHECK(distance(w.read(t), want[t.path]) < 1e-13);
        }
    }
    CHECK(adam.steps() == 6);
    CHECK((adam.steps(0) + adam.steps(1) + adam.steps(2) ==
           reference.steps(0) + reference.steps(1) + reference.steps(2)));
}

TEST_CASE("projected_adamw: the memory of moments follows the rank", "[train][projected_adamw]") {
    using large = stack<linear<64, 64>, repeat<2, residual<rms_norm<64>, swiglu<64, 160>>>>;
    for (const index_t rank : {index_t{1}, index_t{4}, index_t{16}}) {
        const projected_adamw<large> adam({.rank = rank});
        // The first map and two norms in full; gate, up and down of two blocks by 160 values per rank.
        const index_t plain = 64 * 64 + 2 * 64, low = 2 * 3 * rank * 160;
        CHECK(adam.bytes() == static_cast<std::size_t>(2 * (plain + low)) * sizeof(float));
        CHECK(adam.direction_bytes() == static_cast<std::size_t>(2 * 2 * 3 * rank * 64) * sizeof(float));
        CHECK(adam.projected() == 6);
    }
    // Nothing to gain: all of AdamW's.
    const projected_adamw<large> all({.rank = 64});
    CHECK(all.projected() == 0);
    CHECK(all.bytes() == adamw<large>().bytes());
    CHECK(all.direction_bytes() == 0);
}

TEST_CASE("projected_adamw: rank of a step's update, threads, and learning", "[train][projected_adamw]") {
    // One step without decay changes a matrix by one of rank 2: any 3 x 3 minor of the change vanishes.
    auto w = random_params<net, double>(1);
    const auto before = w.read("1.0.2.up");
    projected_adamw<net, double> adam({.rank = 2}, {.rate = 0.1, .decay = 0});
    adam.step(w, gradients<double>(3));
    auto d = w.read("1.0.2.up");
    double size = 0;
    for (std::size_t i = 0; i < d.size(); ++i) {
        d[i] -= before[i];
        size = std::max(size, std::abs(d[i]));
    }
    CHECK(size > 0.01);
    const auto at = [&](std::size_t i, std::size_t j) { return d[i * 20 + j]; };
    for (std::size_t i = 0; i + 2 < 8; ++i) {
        const double minor = at(i, 0) * (at(i + 1, 5) * at(i + 2, 9) - at(i + 1, 9) * at(i + 2, 5)) -
                             at(i, 5) * (at(i + 1, 0) * at(i + 2, 9) - at(i + 1, 9) * at(i + 2, 0)) +
                             at(i, 9) * (at(i + 1, 0) * at(i + 2, 5) - at(i + 1, 5) * at(i + 2, 0));
        CHECK(std::abs(minor) < 1e-12);
    }
    // The same bits for any number of threads.
    using large = stack<repeat<2, residual<rms_norm<64>, swiglu<64, 160>>>>;
    const auto trained = [](executor_ref exec) {
        auto v = random_params<large, float>(1);
        projected_adamw<large> a({.rank = 7, .interval = 2});
        for (std::uint64_t s = 0; s < 3; ++s) a.step(v, random_params<large, float>(s + 9), 1.0, exec);
        return std::vector<float>(v.flat().begin(), v.flat().end());
    };
    thread_pool three(3);
    CHECK(trained({}) == trained(three));
    // OwLore's loop, as the header shows it.
    using small = stack<repeat<4, residual<rms_norm<16>, swiglu<16, 24>>>, linear<16, 16>>;
    params<small> weights{init::standard, 4}, grads;
    tape<small> t;
    trainable_mask<small> mask;
    const std::vector<double> probabilities{1, 2, 3, 4};
    auto draw = schedule::owlore(mask.blocks, probabilities, {.active = 2, .interval = 3}, 5);
    projected_adamw<small> optimiser({.rank = 4, .interval = 5}, {.rate = 0.01, .decay = 0});
    const auto x = normal_numbers<float>(32 * 16, 1), target = normal_numbers<float>(32 * 16, 2);
    double first = 0, last = 0;
    for (index_t step = 0; step < 60; ++step) {
        mask.only(draw(step));
        const auto y = forward<small>(weights, matrix_view<const float>(x.data(), 32, 16), t);
        const auto g = t.output_grad();
        double loss = 0;
        for (index_t i = 0; i < 32; ++i) {
            for (index_t j = 0; j < 16; ++j) {
                g(i, j) = y(i, j) - target[static_cast<std::size_t>(i * 16 + j)];
                loss += static_cast<double>(g(i, j)) * static_cast<double>(g(i, j));
            }
        }
        backward<small>(weights, t, grads, mask);
        optimiser.step(weights, grads, mask);
        (step == 0 ? first : last) = loss;
    }
    CHECK(last < 0.6 * first);
}

TEST_CASE("projected_adamw: what is refused leaves everything as it was", "[train][projected_adamw][error]") {
    CHECK_THROWS_WITH((projected_adamw<net>({.rank = 0})), Contains("'rank' must be positive, got 0"));
    CHECK_THROWS_WITH((projected_adamw<net>({.interval = 0})), Contains("at least one step"));
    CHECK_THROWS_WITH((projected_adamw<net>({}, {.epsilon = 0})), Contains("mox::projected_adamw"));
    projected_adamw<net, double> adam(rank3, options), other(rank3, options);
    CHECK_THROWS_WITH(adam.steps(3), Contains("must name a block"));
    auto w = random_params<net, double>(1);
    const auto before = w;
    auto g = gradients<double>(4);
    auto v = g.read("1.2.2.down");
    v[5] = std::numeric_limits<double>::quiet_NaN();
    g.write("1.2.2.down", v);
    CHECK_THROWS_WITH(adam.step(w, g), Contains("must hold finite numbers"));
    CHECK(std::equal(w.flat().begin(), w.flat().end(), before.flat().begin()));
    CHECK(adam.steps() == 0);
    // And the next good step is a first step.
    auto u = before;
    adam.step(w, gradients<double>(6));
    other.step(u, gradients<double>(6));
    CHECK(std::equal(w.flat().begin(), w.flat().end(), u.flat().begin()));
}

#include <mox/transform/expert_merger.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/golden.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_backward;
using mox_test::run_forward;
using mox_test::run_infer;
using mox_test::transposed;

namespace {

// A recorded case: one map, its experts given as differences.
template <class T, index_t In, index_t Out>
void check_case(const std::string& name, const expert_merger_options& options, double temperature,
                double bound) {
    using net = observed<linear<In, Out>>;
    const mox_test::golden g(name);
    const auto typed = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };
    const auto tasks = g.tensor("param.task_vector");
    params<net, T> base, student, grads;
    base.write("0.weight", typed(transposed(g.tensor("param.W"))));
    std::vector<params<net, T>> experts(tasks.shape[0], base);
    for (std::size_t k = 0; k < experts.size(); ++k) {
        auto w = base.read("0.weight");
        const auto difference = transposed(tasks);
        for (std::size_t i = 0; i < w.size(); ++i) w[i] += static_cast<T>(difference[k * w.size() + i]);
        experts[k].write("0.weight", w);
    }
    typename expert_merger<net, T>::expert_list list;
    for (const auto& e : experts) list.push_back(&e);
    expert_merger<net, T> merger(base, list, options);
    const auto raw = g.tensor("param.raw");
    REQUIRE(merger.raw().size() == raw.values.size());
    std::copy_n(typed(raw.values).begin(), raw.values.size(), merger.raw().begin());
    const auto chunks = static_cast<index_t>(raw.shape[1]);
    std::vector<T> coefficients;
    for (index_t k = 0; k < merger.experts(); ++k) {
        for (index_t c = 0; c < chunks; ++c) coefficients.push_back(merger.coefficient("0.weight", k, c));
    }
    CHECK(distance(coefficients, g.tensor("out.coeff").values) < bound);
    merger.merge(student);
    CHECK(distance(student.read("0.weight"), transposed(g.tensor("out.W_merged"))) < bound);

    const auto x = typed(g.tensor("in.x").values), teacher = typed(g.tensor("in.teacher").values);
    const auto tokens = static_cast<index_t>(g.tensor("in.x").shape[0]);
    const auto rows = batch::equal(1, tokens);
    const auto check_gradient = [&](const std::string& key) {
        INFO(key);
        merger.backward(grads);
        CHECK(distance(std::vector<T>(merger.gradient().begin(), merger.gradient().end()),
                       g.tensor(key).values) < bound);
    };
    tape<net, T> t;
    CHECK(distance(run_forward(student, x, rows, t), g.tensor("out.y").values) < bound);
    run_backward(student, typed(g.tensor("in.dy").values), t, grads);
    check_gradient("grad.param.raw");

    const matrix_view<const T> goal(teacher.data(), tokens, Out);
    run_forward(student, x, rows, t);
    CHECK(static_cast<double>(distill<T>(t.output(), goal, temperature, t.output_grad())) ==
          Approx(g.tensor("loss.logit").values.at(0)).epsilon(bound));
    mox::backward<net, T>(student, t, grads);
    check_gradient("grad_logit.param.raw");

    run_forward(student, x, rows, t);
    CHECK(static_cast<double>(mean_squared_error<T>(t.output(), goal, t.output_grad())) ==
          Approx(g.tensor("loss.hidden").values.at(0)).epsilon(bound));
    mox::backward<net, T>(student, t, grads);
    check_gradient("grad_hidden.param.raw");

    grads.zero();
    merger.backward(grads);
    CHECK(static_cast<double>(merger.penalty(1)) == Approx(g.tensor("loss.reg").values.at(0)).epsilon(bound));
    CHECK(distance(std::vector<T>(merger.gradient().begin(), merger.gradient().end()),
                   g.tensor("grad_reg.param.raw").values) < bound);
}

constexpr attention_spec heads{.width = 8, .heads = 2};
using net = stack<embedding<11, 8>,
                  repeat<2, stack<residual<rms_norm<8>, attention<heads>>,
                                  residual<moe<experts<3, swiglu<8, 5>>, route::top_k<2>>>>>,
                  moe<experts<2, mlp<8, 3, activation::gelu, bias::with>>, route::top_k<1>>,
                  adapted_mlp<8, 4, activation::relu, as_observed<>, bias::with>, linear<8, 11, bias::with>>;
const std::vector<row_t> ids{3, 1, 4, 1, 5, 9, 2, 6};

}  // namespace

TEST_CASE("golden: expert merging of a network", "[golden][transform]") {
    check_case<double, 8, 7>("expertmerging-layer", {.start = 0.1}, 2, 1e-12);
    check_case<double, 6, 5>("expertmerging-chunk", {.start = 0.3, .chunks = 4}, 1, 1e-12);
    check_case<float, 8, 7>("expertmerging-layer", {.start = 0.1}, 2, 3e-5);
    check_case<float, 6, 5>("expertmerging-chunk", {.start = 0.3, .chunks = 4}, 1, 3e-5);
    CHECK(mox_test::unread("expertmerging-layer") == mox_test::nothing);
    CHECK(mox_test::unread("expertmerging-chunk") == mox_test::nothing);
}

TEST_CASE("expert_merger: from the base to an expert, linearly; vectors and embeddings stay",
          "[transform][expert_merging]") {
    const auto base = random_params<net, double>(1), a = random_params<net, double>(2),
               b = random_params<net, double>(3);
    params<net, double> merged;
    const auto at = [&](double lambda) {
        expert_merger<net, double>(base, {&a}, {.start = lambda}).merge(merged);
        return merged;
    };
    const auto nearly_base = at(1e-15), nearly_a = at(1 - 1e-15), middle = at(0.5), quarter = at(0.25);
    index_t changed = 0;
    for (const auto& t : params<net, double>::tensors()) {
        INFO(t.path);
        const bool stays = t.path == "0.table" || t.path.ends_with("gain") || t.path.ends_with("bias");
        CHECK(distance(nearly_base.read(t), base.read(t)) < 1e-13);
        CHECK(distance(nearly_a.read(t), (stays ? base : a).read(t)) < 1e-13);
        auto mean = nearly_base.read(t);
        for (std::size_t i = 0; i < mean.size(); ++i) mean[i] = (mean[i] + middle.read(t)[i]) / 2;
        CHECK(distance(quarter.read(t), mean) < 1e-13);
        changed += stays ? 0 : 1;
    }
    // Two blocks of qkv, out, router, gate_up and down; router, up and down; up and down; the head.
    CHECK(changed == 16);
    expert_merger<net, double> merger(base, {&a, &b}, {.fixed = {"4.weight"}});
    CHECK(merger.raw().size() == 2 * 15);
    merger.merge(merged);
    CHECK(merged.read("4.weight") == base.read("4.weight"));
    CHECK(merger.coefficient("1.0.0.1.qkv", 1) == Approx(0.1));
}

namespace {

// One for each part of a fused map.
index_t chunks_of_fused(const tensor_info& t) {
    if (t.path.ends_with("qkv")) return 3;
    return t.path.ends_with("gate_up") ? 6 : 0;
}

}  // namespace

TEST_CASE("expert_merger: chunks follow outputs, so the parts of fused maps have coefficients of their own",
          "[transform][expert_merging]") {
    const auto base = random_params<net, double>(1), a = random_params<net, double>(2);
    expert_merger_options options;
    options.chunks_of = chunks_of_fused;
    expert_merger<net, double> merger(base, {&a}, options);
    CHECK(merger.raw().size() == 2 * (3 + 6));
    // Keys and values of the first block stay nearly the base's; all of the queries are the expert's.
    merger.raw()[0] = 40;
    merger.raw()[1] = merger.raw()[2] = -40;
    // The up part of expert 1 alone.
    for (std::size_t i = 3; i < 9; ++i) merger.raw()[i] = i == 3 + 3 ? 40 : -40;
    params<net, double> merged;
    merger.merge(merged);
    const auto part = [&](const params<net, double>& w, const std::string& path, std::size_t matrix,
                          std::size_t cols, std::size_t from, std::size_t width) {
        const auto v = w.read(path);
        std::vector<double> p;
        for (std::size_t i = 0; i < 8; ++i) {
            for (std::size_t j = from; j < from + width; ++j) p.push_back(v[(matrix * 8 + i) * cols + j]);
        }
        return p;
    };
    for (std::size_t j = 0; j < 3; ++j) {
        CHECK(distance(part(merged, "1.0.0.1.qkv", 0, 24, 8 * j, 8),
                       part(j == 0 ? a : base, "1.0.0.1.qkv", 0, 24, 8 * j, 8)) < 1e-13);
    }
    for (std::size_t e = 0; e < 3; ++e) {
        for (std::size_t up = 0; up < 2; ++up) {
            CHECK(distance(part(merged, "1.0.1.0.gate_up", e, 10, 5 * up, 5),
                           part(e == 1 && up == 1 ? a : base, "1.0.1.0.gate_up", e, 10, 5 * up, 5)) < 1e-13);
        }
    }
    // Without chunks: fixed at the start.
    CHECK(merger.coefficient("4.weight", 0) == 0.1);
}

TEST_CASE("expert_merger: the gradient of the coefficients against differences",
          "[transform][expert_merging]") {
    const auto base = random_params<net, double>(1, 0.3), a = random_params<net, double>(2, 0.3),
               b = random_params<net, double>(3, 0.3);
    expert_merger<net, double> merger(base, {&a, &b}, {.start = 0.4, .chunks = 3});
    for (std::size_t i = 0; i < merger.raw().size(); ++i)
        merger.raw()[i] += 0.3 * normal_numbers<double>(1, i)[0];
    params<net, double> student, grads;
    tape<net, double> t, u;
    const auto goal = mox_test::flat(mox::infer<net, double>(a, ids, u));
    const auto value = [&] {
        merger.merge(student);
        mox::forward<net, double>(student, ids, t);
        return distill<double>(t.output(), matrix_view<const double>(goal.data(), 8, 11), 2.0,
                               t.output_grad());
    };
    value();
    mox::backward<net, double>(student, t, grads);
    merger.backward(grads);
    const double weight = 0.2, before = merger.penalty(weight);
    const std::vector<double> gradient(merger.gradient().begin(), merger.gradient().end());
    CHECK(before > 0);
    double largest = 0;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        const double raw = merger.raw()[i];
        const auto at = [&](double step) {
            merger.raw()[i] = raw + step;
            return value() + merger.penalty(weight);
        };
        const double slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        merger.raw()[i] = raw;
        CHECK(std::abs(slope - gradient[i]) < 1e-7);
        largest = std::max(largest, std::abs(slope));
    }
    CHECK(largest > 1e-3);
}

TEST_CASE("expert_merger: learning the coefficients lowers the loss", "[transform][expert_merging]") {
    const auto base = random_params<net, float>(1, 0.3);
    // Experts that differ from the base in their matrices.
    const auto expert = [&](std::uint64_t seed) {
        params<net, float> e = base;
        for (const auto& t : params<net, float>::tensors()) {
            if (t.path == "0.table" || t.path.ends_with("gain") || t.path.ends_with("bias")) continue;
            auto values = base.read(t);
            const auto more = normal_numbers<float>(t.spec.logical_size(),
                                                    seed + 100 * static_cast<std::uint64_t>(t.offset), 0.2);
            for (std::size_t i = 0; i < values.size(); ++i) values[i] += more[i];
            e.write(t, values);
        }
        return e;
    };
    const auto a = expert(2), b = expert(3);
    expert_merger<net> merger(base, {&a, &b});
    params<net> student, grads;
    tape<net> t, u;
    adamw_values<float> adam({.rate = 0.2, .decay = 1e-5});
    float first = 0, last = 0;
    for (int step = 0; step < 200; ++step) {
        merger.merge(student);
        const auto goal = mox_test::flat(mox::infer<net>(a, ids, u));
        mox::forward<net>(student, ids, t);
        last = distill<float>(t.output(), matrix_view<const float>(goal.data(), 8, 11), 1.0, t.output_grad());
        mox::backward<net>(student, t, grads);
        merger.backward(grads);
        last += merger.penalty(0.01);
        adam.step(merger.raw(), merger.gradient());
        if (step == 0) first = last;
    }
    // What is left when student and teacher agree.
    const auto goal = mox_test::flat(mox::infer<net>(a, ids, u));
    const matrix_view<const float> teacher(goal.data(), 8, 11);
    const float least = distill<float>(teacher, teacher, 1.0, matrix_view<float>{});
    CHECK(last - least < 0.7f * (first - least));
    // The teacher's share grows.
    float sum = 0;
    for (const auto& info : params<net, float>::tensors()) {
        if (info.path == "0.table" || info.path.ends_with("gain") || info.path.ends_with("bias")) continue;
        sum += merger.coefficient(info.path, 0) - merger.coefficient(info.path, 1);
    }
    CHECK(sum > 1);
}

TEST_CASE("expert_merger: bad input is refused", "[transform][expert_merging]") {
    using one = linear<3, 2, bias::with>;
    using merger = expert_merger<one, double>;
    const auto base = random_params<one, double>(1);
    CHECK_THROWS_WITH(merger(base, {}), Contains("'experts' must hold at least one network"));
    CHECK_THROWS_WITH(merger(base, {&base}, {.start = 1}), Contains("'start' must lie in (0, 1)"));
    CHECK_THROWS_WITH(merger(base, {&base}, {.chunks = -1}), Contains("'chunks' must not be negative"));
    CHECK_THROWS_WITH(merger(base, {&base}, {.fixed = {"weight", "head"}}), Contains("but 'head' is none"));
    CHECK_THROWS_WITH(merger(base, {&base}, {.fixed = {"bias"}}), Contains("but 'bias' is none"));
    CHECK_THROWS_WITH(merger(base, {&base, nullptr}), Contains("no null pointer"));
    const merger all(base, {&base});
    CHECK_THROWS_WITH(all.coefficient("bias", 0), Contains("tensor 'bias' is not merged"));
    CHECK_THROWS_WITH(all.coefficient("weight", 1), Contains("below the numbers of experts and chunks"));
    using still = stack<frozen<linear<3, 2>>, linear<2, 2>>;
    const auto u = random_params<still, double>(1), v = random_params<still, double>(2);
    CHECK_THROWS_WITH((expert_merger<still, double>(u, {&v})), Contains("tensor '0.0.weight' is frozen"));
    // Everything fixed: nothing to learn.
    merger none(base, {&base}, {.fixed = {"weight"}});
    CHECK(none.raw().empty());
    CHECK(none.penalty(1) == 0);
    params<one, double> to;
    none.merge(to);
    CHECK(to.read("weight") == base.read("weight"));
    using part = stack<frozen<linear<3, 2>>, linear<2, 2>>;
    const params<part, double> gradients;
    CHECK_THROWS_WITH((expert_merger<part, double>(gradients, {&gradients})),
                      Contains("must hold the frozen tensors too"));
}

TEST_CASE("expert_merger: the penalty is the mean distance of all coefficients of an expert",
          "[transform][expert_merging]") {
    const auto base = random_params<net, double>(1), a = random_params<net, double>(2),
               b = random_params<net, double>(3);
    expert_merger_options options{.start = 0.3};
    options.chunks_of = chunks_of_fused;
    expert_merger<net, double> merger(base, {&a, &b}, options);
    const std::size_t coefficients = merger.raw().size();
    CHECK(coefficients == 2 * 2 * (3 + 6));
    double sum = 0;
    for (std::size_t i = 0; i < coefficients; ++i) {
        merger.raw()[i] += normal_numbers<double>(1, i)[0];
        sum += std::abs(1 / (1 + std::exp(-merger.raw()[i])) - 0.3);
    }
    // The authors divide by the coefficients of one expert, of all tensors.
    CHECK(merger.penalty(0.1) == Approx(0.1 * sum / (static_cast<double>(coefficients) / 2)));
}

#pragma once

// A recorded case of a low-rank adapter, run through a layer.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <mox/mox.hpp>

#include "catch.hpp"
#include "golden.hpp"
#include "layers.hpp"

namespace mox_test {

template <class T>
std::vector<T> as(const std::vector<double>& v) {
    return std::vector<T>(v.begin(), v.end());
}

using named_values = std::vector<std::pair<std::string, std::vector<double>>>;

// The tensors of an adapter network that a case records under a prefix ("param.", "grad.param.").
template <class Net, class T>
named_values tensors_of(const golden& g, const std::string& prefix) {
    named_values all;
    const auto add = [&](const std::string& path, const std::string& key, bool transpose) {
        if (!g.has(prefix + key)) return;
        const auto t = g.tensor(prefix + key);
        all.emplace_back(path, transpose ? transposed(t) : t.values);
    };
    add("a", "A", false);
    add("b", "B", true);
    add("kept_a", "A_frozen", false);
    add("kept_b", "B_frozen", true);
    add("router", "router", true);
    add("select_bias", "select_bias", false);
    add("0.0.weight", "W", true);
    add("0.0.bias", "bias", false);
    for (const std::string map : {"gate", "up", "down"}) {
        add(map + "_a", map + "_proj.A", false);
        add(map + "_b", map + "_proj.B", true);
    }
    if (g.has(prefix + "gate_proj.W")) {
        all.emplace_back("gate_up.0.weight",
                         gate_and_up(g.tensor(prefix + "gate_proj.W"), g.tensor(prefix + "up_proj.W")));
        add("down.0.weight", "down_proj.W", true);
    }
    return all;
}

// One case run through a layer.
template <class Net, class T>
struct adapter_case {
    golden file;
    mox::batch rows;
    mox::params<Net, T> weights, grads;
    mox::tape<Net, T> tape;
    std::vector<T> x, y, dx;

    explicit adapter_case(const std::string& name) : file(name) {
        const auto shape = file.tensor("in.x").shape;
        rows = shape.size() == 3
                   ? mox::batch::equal(static_cast<index_t>(shape[0]), static_cast<index_t>(shape[1]))
                   : mox::batch::equal(1, static_cast<index_t>(shape[0]));
        for (const auto& [path, values] : tensors_of<Net, T>(file, "param."))
            weights.write(path, as<T>(values));
        x = as<T>(file.tensor("in.x").values);
    }

    void forward(double aux_scale = 0) {
        tape.set_aux_scale(static_cast<T>(aux_scale));
        y = run_forward(weights, x, rows, tape);
    }
    void backward(const std::vector<double>& dy) { dx = run_backward(weights, as<T>(dy), tape, grads); }

    // The output and the gradients of the task.
    void check_task(double bound) {
        forward();
        CHECK(distance(y, file.tensor("out.y").values) < bound);
        backward(file.tensor("in.dy").values);
        check_gradients("grad.", bound);
    }
    void check_gradients(const std::string& prefix, double bound) {
        CHECK(distance(dx, file.tensor(prefix + "in.x").values) < bound);
        for (const auto& [path, values] : tensors_of<Net, T>(file, prefix + "param.")) {
            // What is frozen has no gradient here, although some cases record one.
            if (path == "0.0.weight" || path == "0.0.bias") continue;
            INFO(prefix << ' ' << path);
            CHECK(distance(grads.read(path), values) < bound);
        }
    }
    // A loss of the router alone, and its gradients.
    void check_loss(const std::string& loss, double bound) {
        forward(1);
        const double expected = file.tensor("loss." + loss).values.at(0);
        CHECK(std::abs(static_cast<double>(tape.aux_loss()) - expected) < bound * std::max(1.0, expected));
        backward(std::vector<double>(y.size(), 0.0));
        check_gradients("grad_" + loss + ".", bound);
    }
    // Which experts or ranks each token uses, as sets, and the weights, tokens x experts.
    void check_routing(bool with_index = true) {
        REQUIRE(tape.routing().size() == 1);
        const mox::routing_record& r = tape.routing()[0];
        std::vector<double> gate(static_cast<std::size_t>(r.rows * r.experts));
        for (index_t i = 0; i < r.rows * r.slots; ++i) {
            if (r.chosen[i] < 0) continue;
            gate[static_cast<std::size_t>(i / r.slots * r.experts + r.chosen[i])] =
                static_cast<double>(static_cast<const T*>(r.gates)[i]);
        }
        if (file.has("out.gate")) CHECK(distance(gate, file.tensor("out.gate").values) < 1e-5);
        if (file.has("out.weight")) CHECK(distance(gate, file.tensor("out.weight").values) < 1e-5);
        if (!with_index || !file.has("route.index")) return;
        const auto expected = file.integers("route.index").values;
        REQUIRE(static_cast<index_t>(expected.size()) == r.rows * r.slots);
        for (index_t t = 0; t < r.rows; ++t) {
            std::vector<index_t> a, b;
            for (index_t j = t * r.slots; j < (t + 1) * r.slots; ++j) {
                a.push_back(r.chosen[j]);
                b.push_back(static_cast<index_t>(expected[static_cast<std::size_t>(j)]));
            }
            std::sort(a.begin(), a.end());
            std::sort(b.begin(), b.end());
            CHECK(a == b);
        }
    }
    // The selection bias after the step.
    void check_bias() {
        mox::update_selection_bias(weights, tape);
        CHECK(distance(weights.read("select_bias"), file.tensor("out.select_bias_next").values) < 1e-7);
    }
};

// Sums of at most 13 products through two maps, in float.
inline constexpr double exact = 1e-12, rounded = 5e-5;

template <index_t Rank>
constexpr mox::adapter_spec spec(double alpha, index_t kept = 0) {
    return {.rank = Rank, .alpha = alpha, .kept_ranks = kept};
}

}  // namespace mox_test

#pragma once

// A recorded case of a low-rank adapter, run through a layer.

#include <algorithm>
#include <cmath>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <mox/mox.hpp>

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

// The worst of several comparisons, and where it is. Nothing compared is as bad as can be.
class worst_difference {
public:
    void add(const std::string& where, double distance) {
        if (compared_++ > 0 && distance <= distance_) return;
        distance_ = distance;
        where_ = where;
    }
    friend bool operator<(const worst_difference& a, double bound) {
        return a.compared_ > 0 && a.distance_ < bound;
    }
    friend std::ostream& operator<<(std::ostream& out, const worst_difference& a) {
        if (a.compared_ == 0) return out << "nothing compared";
        return out << a.distance_ << " at " << a.where_ << " of " << a.compared_;
    }

private:
    double distance_ = 0;
    std::string where_;
    int compared_ = 0;
};

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
    worst_difference task_error() {
        worst_difference worst;
        forward();
        worst.add("out.y", distance(y, file.tensor("out.y").values));
        backward(file.tensor("in.dy").values);
        add_gradients("grad.", worst);
        return worst;
    }
    // A loss of the router alone, and its gradients.
    worst_difference loss_error(const std::string& loss) {
        worst_difference worst;
        forward(1);
        const double expected = file.tensor("loss." + loss).values.at(0);
        worst.add("loss." + loss, distance(std::vector<T>{tape.aux_loss()}, std::vector<double>{expected}));
        backward(std::vector<double>(y.size(), 0.0));
        add_gradients("grad_" + loss + ".", worst);
        return worst;
    }
    // The value alone, for losses that are recorded without gradients.
    worst_difference loss_value(const std::string& loss) {
        worst_difference worst;
        forward(1);
        worst.add("loss." + loss,
                  distance(std::vector<T>{tape.aux_loss()}, file.tensor("loss." + loss).values));
        return worst;
    }
    // The weights of the last step, tokens x experts or ranks, and with_index which ones each token uses, as
    // sets.
    worst_difference routing_error(bool with_index = true) const {
        worst_difference worst;
        if (tape.routing().size() != 1) return worst;
        const mox::routing_record& r = tape.routing()[0];
        std::vector<double> gate(static_cast<std::size_t>(r.rows * r.experts));
        for (index_t i = 0; i < r.rows * r.slots; ++i) {
            if (r.chosen[i] < 0) continue;
            gate[static_cast<std::size_t>(i / r.slots * r.experts + r.chosen[i])] =
                static_cast<double>(static_cast<const T*>(r.gates)[i]);
        }
        for (const std::string key : {"out.gate", "out.weight"}) {
            if (file.has(key)) worst.add(key, distance(gate, file.tensor(key).values));
        }
        if (file.has("route.count")) {
            const auto expected = file.integers("route.count").values;
            const std::vector<double> ours(r.counts, r.counts + r.experts);
            worst.add("route.count", distance(ours, std::vector<double>(expected.begin(), expected.end())));
        }
        if (file.has("route.mask")) {
            const auto expected = file.flags("route.mask").values;
            std::vector<double> chosen(gate.size());
            for (index_t i = 0; i < r.rows * r.slots; ++i) {
                if (r.chosen[i] >= 0)
                    chosen[static_cast<std::size_t>(i / r.slots * r.experts + r.chosen[i])] = 1;
            }
            worst.add("route.mask", distance(chosen, std::vector<double>(expected.begin(), expected.end())));
        }
        if (with_index && file.has("route.index")) worst.add("route.index", choice_error());
        return worst;
    }
    // 0 when the tokens of the last step have chosen what the case records, as sets.
    double choice_error() const {
        const mox::routing_record& r = tape.routing()[0];
        const auto expected = file.integers("route.index").values;
        std::vector<index_t> ours, theirs;
        for (index_t i = 0; i < r.rows * r.slots; ++i) ours.push_back(r.chosen[i]);
        for (const auto e : expected) theirs.push_back(static_cast<index_t>(e));
        if (ours.size() == theirs.size()) {
            for (index_t t = 0; t < r.rows; ++t) {
                std::sort(ours.begin() + t * r.slots, ours.begin() + (t + 1) * r.slots);
                std::sort(theirs.begin() + t * r.slots, theirs.begin() + (t + 1) * r.slots);
            }
        }
        return ours == theirs ? 0.0 : HUGE_VAL;
    }
    // The selection bias after the step.
    worst_difference bias_error() {
        worst_difference worst;
        mox::update_selection_bias(weights, tape);
        worst.add("out.select_bias_next",
                  distance(weights.read("select_bias"), file.tensor("out.select_bias_next").values));
        return worst;
    }

private:
    void add_gradients(const std::string& prefix, worst_difference& worst) const {
        worst.add(prefix + "in.x", distance(dx, file.tensor(prefix + "in.x").values));
        for (const auto& [path, values] : tensors_of<Net, T>(file, prefix + "param.")) {
            // What is frozen has no gradient here, although some cases record one.
            if (path == "0.0.weight" || path == "0.0.bias") continue;
            worst.add(prefix + path, distance(grads.read(path), values));
        }
    }
};

// Sums of at most 13 products through two maps, in float.
inline constexpr double exact = 1e-12, rounded = 5e-5;

template <index_t Rank>
constexpr mox::adapter_spec spec(double alpha, index_t kept = 0) {
    return {.rank = Rank, .alpha = alpha, .kept_ranks = kept};
}

}  // namespace mox_test

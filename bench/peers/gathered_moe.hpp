#pragma once

// A mixture-of-experts layer as an engineer writes it with a library of matrix products: the rows of an
// expert gathered, three products, scattered.

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "peers/product.hpp"
#include "support/agreement.hpp"
#include "support/moe_problem.hpp"

namespace bench {

template <class Peer>
class gathered_moe {
public:
    explicit gathered_moe(moe_problem problem)
        : p(std::move(problem)), s(p.shape), lists(at(s.experts)), y(s.tokens, s.width),
          dx(s.tokens, s.width) {
        for (index_t e = 0; e < s.experts; ++e) {
            prepared_gate_up.emplace_back(peer, gate_up_of(p.gate_up, e));
            prepared_down.emplace_back(peer, down_of(p.down, e));
        }
    }

    void infer() {
        route();
        y.setZero();
        for (index_t e = 0; e < s.experts; ++e) {
            if (gather(e) == 0) continue;
            peer.apply(rows, prepared_gate_up[at(e)], pre);
            activate();
            peer.apply(hidden, prepared_down[at(e)], out);
            scatter(e);
        }
    }

    void train() {
        route();
        y.setZero();
        dx.setZero();
        dlogits.setZero(s.tokens, s.experts);
        drouter.resize(s.width, s.experts);
        dgate_up.resize(p.gate_up.size());
        ddown.resize(p.down.size());
        const view dy(p.dy.data(), s.tokens, s.width);
        for (index_t e = 0; e < s.experts; ++e) {
            const index_t n = gather(e);
            const auto& list = lists[at(e)];
            const target dw_up = gate_up_of(dgate_up, e), dw_down = down_of(ddown, e);
            if (n == 0) {
                eigen(dw_up).setZero();
                eigen(dw_down).setZero();
                continue;
            }
            peer.product(form::nn, rows, gate_up_of(p.gate_up, e), pre);
            activate();
            peer.product(form::nn, hidden, down_of(p.down, e), out);
            scatter(e);
            upstream.resize(n, s.width);
            for (index_t i = 0; i < n; ++i) {
                const slot& c = list[at(i)];
                const auto dy_row = eigen(dy).row(c.token);
                dlogits(c.token, e) = out.row(i).dot(dy_row);
                upstream.row(i) = c.gate * dy_row;
            }
            peer.product(form::tn, hidden, upstream, dw_down);
            dhidden.resize(n, s.hidden);
            peer.product(form::nt, upstream, down_of(p.down, e), dhidden);
            // Row by row, so that what one step of a row leaves is still in the nearest cache.
            dpre.resize(n, 2 * s.hidden);
            for (index_t i = 0; i < n; ++i) {
                const auto a = pre.row(i).head(s.hidden).array(), u = pre.row(i).tail(s.hidden).array();
                const auto dh = dhidden.row(i).array();
                sigmoid = 1.0f / (1.0f + (-a).exp());
                dpre.row(i).head(s.hidden) = dh * u * (sigmoid * (1.0f + a * (1.0f - sigmoid)));
                dpre.row(i).tail(s.hidden) = dh * a * sigmoid;
            }
            peer.product(form::tn, rows, dpre, dw_up);
            peer.product(form::nt, dpre, gate_up_of(p.gate_up, e), out);
            for (index_t i = 0; i < n; ++i) dx.row(list[at(i)].token) += out.row(i);
        }
        // Softmax over the chosen: from the gradient of a gate to that of its logit.
        mean.setZero(s.tokens);
        each_slot([&](index_t e, const slot& c) { mean(c.token) += c.gate * dlogits(c.token, e); });
        each_slot([&](index_t e, const slot& c) {
            dlogits(c.token, e) = c.gate * (dlogits(c.token, e) - mean(c.token));
        });
        peer.product(form::tn, x(), dlogits, drouter);
        peer.product(form::nt, dlogits, view(p.router.data(), s.width, s.experts), dx, true);
    }

    /// Compares what the last step has left with mox's results.
    void check(double bound) const {
        must_agree(Peer::name, "a layer's output", all(y), p.y, bound);
        if (drouter.size() == 0) return;
        must_agree(Peer::name, "the gradient of a layer's input", all(dx), p.dx, bound);
        must_agree(Peer::name, "the gradient of a router", all(drouter), p.drouter, bound);
        must_agree(Peer::name, "the gradient of gate and up", dgate_up, p.dgate_up, bound);
        must_agree(Peer::name, "the gradient of down", ddown, p.ddown, bound);
    }

protected:
    struct slot {
        index_t token;
        float gate;
    };

    static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
    static std::span<const float> all(const matrix& m) { return {m.data(), at(m.size())}; }
    view x() const { return {p.x.data(), s.tokens, s.width}; }
    template <class Floats>
    auto gate_up_of(Floats& w, index_t e) const {
        return mox::matrix_view(w.data() + e * s.width * 2 * s.hidden, s.width, 2 * s.hidden);
    }
    template <class Floats>
    auto down_of(Floats& w, index_t e) const {
        return mox::matrix_view(w.data() + e * s.hidden * s.width, s.hidden, s.width);
    }
    template <class Body>
    void each_slot(Body&& body) const {
        for (index_t e = 0; e < s.experts; ++e) {
            for (const slot& c : lists[at(e)]) body(e, c);
        }
    }

    void route() {
        logits.resize(s.tokens, s.experts);
        peer.product(form::nn, x(), view(p.router.data(), s.width, s.experts), logits);
        for (auto& list : lists) list.clear();
        std::vector<int> order(at(s.experts));
        std::vector<float> gates(at(s.chosen));
        for (index_t t = 0; t < s.tokens; ++t) {
            std::iota(order.begin(), order.end(), 0);
            std::partial_sort(order.begin(), order.begin() + s.chosen, order.end(),
                              [&](int a, int b) { return logits(t, a) > logits(t, b); });
            float sum = 0;
            for (std::size_t j = 0; j < gates.size(); ++j)
                sum += gates[j] = std::exp(logits(t, order[j]) - logits(t, order[0]));
            for (std::size_t j = 0; j < gates.size(); ++j) lists[at(order[j])].push_back({t, gates[j] / sum});
        }
    }

    index_t gather(index_t e) {
        const auto& list = lists[at(e)];
        const auto n = static_cast<index_t>(list.size());
        rows.resize(n, s.width);
        pre.resize(n, 2 * s.hidden);
        out.resize(n, s.width);
        for (index_t i = 0; i < n; ++i) std::copy_n(x().row(list[at(i)].token), s.width, rows.row(i).data());
        return n;
    }
    void activate() {
        hidden.resize(pre.rows(), s.hidden);
        const auto a = pre.leftCols(s.hidden).array();
        hidden = (a / (1.0f + (-a).exp()) * pre.rightCols(s.hidden).array()).matrix();
    }
    void scatter(index_t e) {
        const auto& list = lists[at(e)];
        for (index_t i = 0; i < out.rows(); ++i) y.row(list[at(i)].token) += list[at(i)].gate * out.row(i);
    }

    moe_problem p;
    moe_shape s;
    Peer peer;
    std::vector<typename Peer::weight> prepared_gate_up, prepared_down;
    std::vector<std::vector<slot>> lists;
    matrix y, dx, logits, rows, pre, hidden, out, upstream, dhidden, dpre, dlogits, drouter;
    Eigen::Array<float, 1, Eigen::Dynamic> sigmoid, mean;
    values dgate_up, ddown;
};

/// One repetition of a gathered layer, its result compared with mox's once.
template <class Layer>
competitor moe_competitor(const std::string& who, moe_shape shape, void (Layer::*step)(), double bound) {
    return {who, [=] {
                auto layer = std::make_shared<Layer>(moe_problems().at(shape.name())(shape));
                ((*layer).*step)();
                layer->check(bound);
                return [layer, step] { ((*layer).*step)(); };
            }};
}

/// Adds a peer to all groups of the float layer.
template <class Peer>
void add_gathered_moe() {
    using layer = gathered_moe<Peer>;
    for (const moe_shape& s : moe_shapes) {
        const auto infer = moe_competitor(Peer::name, s, &layer::infer, float_bound);
        for (const char* group : {"forward", "small", "row_major"})
            add_competitor("moe_swiglu/" + std::string(group) + "/" + s.name(), infer);
        add_competitor("moe_swiglu/forward_backward/" + s.name(),
                       moe_competitor(Peer::name, s, &layer::train, float_bound));
    }
}

}  // namespace bench

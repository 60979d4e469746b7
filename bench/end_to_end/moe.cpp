// One mixture-of-experts layer with SwiGLU experts: router, selection, experts, combination.

#include <algorithm>
#include <numeric>

#include <Eigen/Core>

#include <mox/mox.hpp>

#include "support/steps.hpp"

namespace {

using mox::index_t;

using layer = mox::moe<mox::experts<8, mox::swiglu<512, 1024>>, mox::route::top_k<2>>;
constexpr index_t tokens = 512, width = 512, hidden = 1024, expert_count = 8, chosen = 2;
constexpr double forward_flops = 6.0 * tokens * chosen * width * hidden + 2.0 * tokens * width * expert_count;

using mox_layer = bench::steps<layer>;

// The same layer as an engineer writes it with Eigen: rows of an expert gathered, three products, scattered.
struct eigen_layer {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

    matrix router, x, dy, y, dx;
    std::vector<matrix> gate, up, down, dgate, dup, ddown;
    matrix drouter;

    eigen_layer() {
        const mox::params<layer> weights{mox::init::standard, 7};
        const auto tensor = [&](const char* path) { return weights.read(path); };
        const auto r = tensor("router"), gu = tensor("gate_up"), d = tensor("down");
        router = Eigen::Map<const matrix>(r.data(), width, expert_count);
        for (index_t e = 0; e < expert_count; ++e) {
            const Eigen::Map<const matrix> both(gu.data() + e * width * 2 * hidden, width, 2 * hidden);
            gate.push_back(both.leftCols(hidden));
            up.push_back(both.rightCols(hidden));
            down.push_back(Eigen::Map<const matrix>(d.data() + e * hidden * width, hidden, width));
        }
        dgate = gate;
        dup = up;
        ddown = down;
        const auto xs = bench::random_rows(tokens, width, 1), dys = bench::random_rows(tokens, width, 2);
        x = Eigen::Map<const matrix>(xs.data(), tokens, width);
        dy = Eigen::Map<const matrix>(dys.data(), tokens, width);
        dx = x;
        y = x;
    }

    struct slot {
        index_t token;
        float gate;
        index_t choice;
    };

    std::vector<std::vector<slot>> route() const {
        const matrix logits = x * router;
        std::vector<std::vector<slot>> lists(expert_count);
        for (index_t t = 0; t < tokens; ++t) {
            int order[expert_count];
            std::iota(order, order + expert_count, 0);
            std::partial_sort(order, order + chosen, order + expert_count,
                              [&](int a, int b) { return logits(t, a) > logits(t, b); });
            const float a = logits(t, order[0]), b = logits(t, order[1]);
            const float g0 = 1.0f / (1.0f + std::exp(b - a));
            lists[static_cast<std::size_t>(order[0])].push_back({t, g0, 0});
            lists[static_cast<std::size_t>(order[1])].push_back({t, 1 - g0, 1});
        }
        return lists;
    }

    static matrix sigmoid(const matrix& a) { return (1.0f / (1.0f + (-a.array()).exp())).matrix(); }

    void infer() {
        const auto lists = route();
        y.setZero();
        for (std::size_t e = 0; e < expert_count; ++e) {
            const auto& list = lists[e];
            const index_t n = static_cast<index_t>(list.size());
            matrix rows(n, width);
            for (index_t i = 0; i < n; ++i) rows.row(i) = x.row(list[static_cast<std::size_t>(i)].token);
            const matrix a = rows * gate[e];
            const matrix u = rows * up[e];
            const matrix h = (a.array() / (1.0f + (-a.array()).exp()) * u.array()).matrix();
            const matrix out = h * down[e];
            for (index_t i = 0; i < n; ++i) {
                const slot& s = list[static_cast<std::size_t>(i)];
                y.row(s.token) += s.gate * out.row(i);
            }
        }
    }

    // Token by token: matrix times vector, as the formula is written.
    void infer_by_token() {
        const auto lists = route();
        y.setZero();
        for (std::size_t e = 0; e < expert_count; ++e) {
            for (const slot& s : lists[e]) {
                const Eigen::RowVectorXf row = x.row(s.token);
                const Eigen::RowVectorXf a = row * gate[e];
                const Eigen::RowVectorXf u = row * up[e];
                const Eigen::RowVectorXf h = (a.array() / (1.0f + (-a.array()).exp()) * u.array()).matrix();
                y.row(s.token) += s.gate * (h * down[e]);
            }
        }
    }

    void train() {
        const auto lists = route();
        y.setZero();
        dx.setZero();
        matrix dlogit_gate(tokens, chosen), gates(tokens, chosen);
        Eigen::Matrix<int, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> who(tokens, chosen);
        for (std::size_t e = 0; e < expert_count; ++e) {
            const auto& list = lists[e];
            const index_t n = static_cast<index_t>(list.size());
            matrix rows(n, width), upstream(n, width);
            for (index_t i = 0; i < n; ++i) {
                const slot& s = list[static_cast<std::size_t>(i)];
                rows.row(i) = x.row(s.token);
                upstream.row(i) = dy.row(s.token);
            }
            const matrix a = rows * gate[e];
            const matrix u = rows * up[e];
            const matrix sig = sigmoid(a);
            const matrix act = (a.array() * sig.array()).matrix();
            const matrix h = (act.array() * u.array()).matrix();
            const matrix out = h * down[e];
            for (index_t i = 0; i < n; ++i) {
                const slot& s = list[static_cast<std::size_t>(i)];
                y.row(s.token) += s.gate * out.row(i);
                dlogit_gate(s.token, s.choice) = out.row(i).dot(upstream.row(i));
                gates(s.token, s.choice) = s.gate;
                who(s.token, s.choice) = static_cast<int>(e);
                upstream.row(i) *= s.gate;
            }
            ddown[e].noalias() = h.transpose() * upstream;
            const matrix dh = upstream * down[e].transpose();
            const matrix du = (dh.array() * act.array()).matrix();
            const matrix da =
                (dh.array() * u.array() * (sig.array() * (1.0f + a.array() * (1.0f - sig.array())))).matrix();
            dgate[e].noalias() = rows.transpose() * da;
            dup[e].noalias() = rows.transpose() * du;
            const matrix drows = da * gate[e].transpose() + du * up[e].transpose();
            for (index_t i = 0; i < n; ++i) dx.row(list[static_cast<std::size_t>(i)].token) += drows.row(i);
        }
        matrix dlogits = matrix::Zero(tokens, expert_count);
        for (index_t t = 0; t < tokens; ++t) {
            const float mean = gates(t, 0) * dlogit_gate(t, 0) + gates(t, 1) * dlogit_gate(t, 1);
            for (index_t j = 0; j < chosen; ++j)
                dlogits(t, who(t, j)) = gates(t, j) * (dlogit_gate(t, j) - mean);
        }
        drouter.noalias() = x.transpose() * dlogits;
        dx.noalias() += dlogits * router.transpose();
    }
};

const bench::registration add([](std::vector<bench::group>& groups) {
    const std::string shape = "T512_D512_H1024_E8_k2";
    groups.push_back({"moe_swiglu/forward/" + shape,
                      forward_flops,
                      bench::limit::fma_f32,
                      {{0.90, 0, ""},
                       {0, 2.0, "eigen_by_token"},
                       {0, 1.2, "eigen"},
                       {.peer = "mox_2_threads", .at_least = 1.9}},
                      {{"mox", bench::run(&mox_layer::infer, index_t{1}, index_t{1}, tokens)},
                       {"mox_2_threads", bench::run(&mox_layer::infer, index_t{2}, index_t{1}, tokens)},
                       {"eigen", bench::run(&eigen_layer::infer)},
                       {"eigen_by_token", bench::run(&eigen_layer::infer_by_token)}}});
    groups.push_back({"moe_swiglu/forward_backward/" + shape,
                      3 * forward_flops,
                      bench::limit::fma_f32,
                      {{0.80, 0, ""}, {0, 1.2, "eigen"}, {.peer = "mox_2_threads", .at_least = 1.9}},
                      {{"mox", bench::run(&mox_layer::train, index_t{1}, index_t{1}, tokens)},
                       {"mox_2_threads", bench::run(&mox_layer::train, index_t{2}, index_t{1}, tokens)},
                       {"eigen", bench::run(&eigen_layer::train)}}});
});

}  // namespace

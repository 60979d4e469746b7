// Eigen, which mox's users already have: always a peer.

#include <utility>
#include <vector>

#include "peers/attention.hpp"
#include "peers/gathered_moe.hpp"

namespace {

using namespace bench;

struct eigen_peer : unprepared<eigen_peer> {
    static constexpr const char* name = "eigen";

    void product(form f, view a, view b, target c, bool add = false) {
        const auto assign = [&](const auto& value) {
            if (add)
                eigen(c).noalias() += value;
            else
                eigen(c).noalias() = value;
        };
        if (f == form::nn)
            assign(eigen(a) * eigen(b));
        else if (f == form::nt)
            assign(eigen(a) * eigen(b).transpose());
        else
            assign(eigen(a).transpose() * eigen(b));
    }
};

// Token by token: matrix times vector, as the formula is written.
struct by_token : gathered_moe<eigen_peer> {
    std::vector<matrix> gate, up, down;

    explicit by_token(moe_problem problem) : gathered_moe(std::move(problem)) {
        for (index_t e = 0; e < s.experts; ++e) {
            const auto both = eigen(gate_up_of(p.gate_up, e));
            gate.push_back(both.leftCols(s.hidden));
            up.push_back(both.rightCols(s.hidden));
            down.push_back(eigen(down_of(p.down, e)));
        }
    }

    void infer_by_token() {
        route();
        y.setZero();
        each_slot([&](index_t expert, const slot& c) {
            const auto e = static_cast<std::size_t>(expert);
            const Eigen::RowVectorXf row = eigen(x()).row(c.token);
            const Eigen::RowVectorXf a = row * gate[e];
            const Eigen::RowVectorXf u = row * up[e];
            const Eigen::RowVectorXf h = (a.array() / (1.0f + (-a.array()).exp()) * u.array()).matrix();
            y.row(c.token) += c.gate * (h * down[e]);
        });
    }
};

const bool added = [] {
    add_gathered_moe<eigen_peer>();
    add_attention<eigen_peer>();
    add_competitor("moe_swiglu/forward/" + moe_shapes[0].name(),
                   moe_competitor("eigen_by_token", moe_shapes[0], &by_token::infer_by_token, float_bound));
    return true;
}();

}  // namespace

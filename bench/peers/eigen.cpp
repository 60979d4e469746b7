// Eigen, which mox's users already have: always a peer.

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

const bool added = [] {
    add_gathered_moe<eigen_peer>();
    add_attention<eigen_peer>();
    add_competitor("moe_swiglu/forward/" + moe_shapes[0].name(),
                   moe_competitor<eigen_peer>("eigen_by_token", moe_shapes[0],
                                              &gathered_moe<eigen_peer>::infer_by_token,
                                              &gathered_moe<eigen_peer>::check_infer, 1e-5));
    return true;
}();

}  // namespace

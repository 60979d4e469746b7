// OpenBLAS, on one thread like mox's row beside it.

#include <cblas.h>

#include "peers/attention.hpp"
#include "peers/gathered_moe.hpp"

namespace {

using namespace bench;

struct openblas_peer : unprepared<openblas_peer> {
    static constexpr const char* name = "openblas";

    openblas_peer() { openblas_set_num_threads(1); }

    void product(form f, view a, view b, target c, bool add = false) {
        const extents e(f, a, b);
        const auto number = [](index_t i) { return static_cast<blasint>(i); };
        const auto order = [](bool transposed) { return transposed ? CblasTrans : CblasNoTrans; };
        cblas_sgemm(CblasRowMajor, order(f == form::tn), order(f == form::nt), number(e.m), number(e.n),
                    number(e.k), 1.0f, a.data, number(a.stride), b.data, number(b.stride), add ? 1.0f : 0.0f,
                    c.data, number(c.stride));
    }
};

const bool added = [] {
    add_gathered_moe<openblas_peer>();
    add_attention<openblas_peer>();
    return true;
}();

}  // namespace

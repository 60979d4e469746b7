#pragma once

// A peer is its matrix product; the layers around it are the same for all of them.

#include <Eigen/Core>

#include <mox/core/view.hpp>

namespace bench {

using mox::index_t;
using view = mox::matrix_view<const float>;
using target = mox::matrix_view<float>;

/// Which factor is transposed: c = a b, a b^T, a^T b. All are stored row-major.
enum class form { nn, nt, tn };

/// Rows, columns and inner length of a product.
struct extents {
    index_t m, n, k;
    extents(form f, view a, view b)
        : m(f == form::tn ? a.cols : a.rows), n(f == form::nt ? b.rows : b.cols),
          k(f == form::tn ? a.rows : a.cols) {}
};

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class M>
using strided = Eigen::Map<M, Eigen::Unaligned, Eigen::OuterStride<>>;

/// What Eigen computes with: peers write their elementwise parts with it.
inline strided<const matrix> eigen(view v) {
    return {v.data, v.rows, v.cols, Eigen::OuterStride<>(v.stride)};
}
inline strided<matrix> eigen(target v) { return {v.data, v.rows, v.cols, Eigen::OuterStride<>(v.stride)}; }

// A peer: a type with
//   static constexpr const char* name;
//   void product(form, view a, view b, target c, bool add = false);  c = a b, or c += a b
//   struct weight { weight(Peer&, view); };                          prepared once, for inference
//   void apply(view rows, const weight&, target c);                  c = rows weight

/// The weight of a peer that prepares nothing.
template <class Peer>
struct unprepared {
    struct weight {
        view values;
        weight(Peer&, view v) : values(v) {}
    };
    void apply(view rows, const weight& w, target c) {
        static_cast<Peer*>(this)->product(form::nn, rows, w.values, c);
    }
};

}  // namespace bench

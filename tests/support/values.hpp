#pragma once

// Numbers for tests: rows and ids from a seed, and comparison bit for bit.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <mox/core/random.hpp>
#include <mox/core/view.hpp>
#include <mox/model/params.hpp>

namespace values {

using mox::index_t;
using mox::row_t;

/// A dense matrix that owns its numbers.
template <class T>
struct matrix {
    std::vector<T> v;
    index_t r = 0, c = 0;

    matrix() = default;
    matrix(index_t rows_, index_t cols_) : v(static_cast<std::size_t>(rows_ * cols_)), r(rows_), c(cols_) {}
    T* data() { return v.data(); }
    const T* data() const { return v.data(); }
    index_t rows() const { return r; }
    index_t cols() const { return c; }
    T& operator()(index_t i, index_t j) { return v[static_cast<std::size_t>(i * c + j)]; }
    const T& operator()(index_t i, index_t j) const { return v[static_cast<std::size_t>(i * c + j)]; }
    bool operator==(const matrix& o) const {
        return r == o.r && c == o.c &&
               (v.empty() || std::memcmp(v.data(), o.v.data(), v.size() * sizeof(T)) == 0);
    }
};

/// Normal numbers.
template <class T>
matrix<T> normal(index_t rows, index_t cols, std::uint64_t seed, double scale = 1.0) {
    matrix<T> m(rows, cols);
    const mox::random_stream numbers(seed, 0x76616cull);
    std::uint64_t i = 0;
    for (T& x : m.v) x = static_cast<T>(scale * numbers.normal(i++));
    return m;
}

inline std::vector<row_t> ids(index_t n, std::uint32_t limit, std::uint64_t seed) {
    std::vector<row_t> v;
    const mox::random_stream numbers(seed, 0x696473ull);
    for (index_t i = 0; i < n; ++i) {
        v.push_back(static_cast<row_t>(numbers.bits(static_cast<std::uint64_t>(i)) % limit));
    }
    return v;
}

/// The rows of a view, copied.
template <class T>
matrix<std::remove_const_t<T>> copy(mox::matrix_view<T> m) {
    matrix<std::remove_const_t<T>> out(m.rows, m.cols);
    for (index_t i = 0; i < m.rows; ++i) {
        for (index_t j = 0; j < m.cols; ++j) out(i, j) = m(i, j);
    }
    return out;
}

/// Rows [begin, begin + count) of a matrix.
template <class T>
matrix<T> middle(const matrix<T>& m, index_t begin, index_t count) {
    matrix<T> out(count, m.c);
    for (index_t i = 0; i < count; ++i) {
        for (index_t j = 0; j < m.c; ++j) out(i, j) = m(begin + i, j);
    }
    return out;
}

template <class T>
void assign(mox::matrix_view<T> to, const matrix<T>& from) {
    for (index_t i = 0; i < to.rows; ++i) {
        for (index_t j = 0; j < to.cols; ++j) to(i, j) = from(i, j);
    }
}

template <class T>
double largest_difference(const matrix<T>& a, const matrix<T>& b) {
    if (a.r != b.r || a.c != b.c) return HUGE_VAL;
    double worst = 0;
    for (std::size_t i = 0; i < a.v.size(); ++i) {
        const double d = std::abs(static_cast<double>(a.v[i]) - static_cast<double>(b.v[i]));
        if (!(d <= worst)) worst = std::isnan(d) ? HUGE_VAL : d;
    }
    return worst;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Copies all tensors of one network into another one with the same list of tensor shapes.
template <class From, class To, class T>
void copy_in_order(const mox::params<From, T>& from, mox::params<To, T>& to) {
    const auto a = mox::params<From, T>::tensors();
    const auto b = mox::params<To, T>::tensors();
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) to.write(b[i], from.read(a[i]));
}

}  // namespace values

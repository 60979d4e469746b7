#pragma once

// Running layers in tests: plain vectors in and out.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/model/run.hpp>

namespace mox_test {

using mox::index_t;
using mox::row_t;

template <class T>
std::vector<T> normal_numbers(index_t count, std::uint64_t seed, double scale = 1) {
    const mox::random_stream numbers(seed, 77);
    std::vector<T> v;
    for (index_t i = 0; i < count; ++i)
        v.push_back(static_cast<T>(scale * numbers.normal(static_cast<std::uint64_t>(i))));
    return v;
}

template <class T>
std::vector<T> flat(mox::matrix_view<const T> m) {
    std::vector<T> v;
    for (index_t i = 0; i < m.rows; ++i) v.insert(v.end(), m.row(i), m.row(i) + m.cols);
    return v;
}

/// All tensors random, biases too; the same numbers for float and double.
template <class Net, class T>
mox::params<Net, T> random_params(std::uint64_t seed, double scale = 0.5) {
    mox::params<Net, T> w;
    for (const auto& info : mox::params<Net, T>::tensors()) {
        w.write(info, normal_numbers<T>(info.spec.logical_size(),
                                        seed + 1000 * static_cast<std::uint64_t>(info.ordinal), scale));
    }
    return w;
}

template <class Net, class T>
std::vector<T> run_forward(const mox::params<Net, T>& w, const std::vector<T>& x, const mox::batch& rows,
                           mox::tape<Net, T>& tape) {
    return flat<T>(
        mox::forward<Net, T>(w, mox::matrix_view<const T>(x.data(), rows.rows(), Net::in), rows, tape));
}

/// A temporary x lives on until the tape's next run with one: backward reads it.
template <class Net, class T>
std::vector<T> run_forward(const mox::params<Net, T>& w, std::vector<T>&& x, const mox::batch& rows,
                           mox::tape<Net, T>& tape) {
    static std::map<const void*, std::vector<T>> kept;
    const std::vector<T>& alive = kept[&tape] = std::move(x);
    return run_forward(w, alive, rows, tape);
}

template <class Net, class T>
std::vector<T> run_infer(const mox::params<Net, T>& w, const std::vector<T>& x, const mox::batch& rows,
                         mox::tape<Net, T>& tape) {
    return flat<T>(
        mox::infer<Net, T>(w, mox::matrix_view<const T>(x.data(), rows.rows(), Net::in), rows, tape));
}

/// Backward after run_forward; returns the gradient of the input.
template <class Net, class T>
std::vector<T> run_backward(const mox::params<Net, T>& w, const std::vector<T>& dy, mox::tape<Net, T>& tape,
                            mox::params<Net, T>& grads) {
    const auto to = tape.output_grad();
    for (index_t i = 0; i < to.rows; ++i) std::copy_n(dy.data() + i * to.cols, to.cols, to.row(i));
    std::vector<T> dx(static_cast<std::size_t>(to.rows * Net::in), T(-99));
    mox::backward<Net, T>(w, tape, grads, mox::matrix_view<T>(dx.data(), to.rows, Net::in));
    return dx;
}

/// Whether two routers chose the same with the same weights, bit for bit.
inline bool same_choices(const mox::routing_record& a, const mox::routing_record& b) {
    if (a.rows != b.rows || a.slots != b.slots) return false;
    for (index_t i = 0; i < a.rows * a.slots; ++i) {
        if (a.chosen[i] != b.chosen[i] ||
            a.gate(i / a.slots, i % a.slots) != b.gate(i / a.slots, i % a.slots))
            return false;
    }
    return true;
}

/// Tokens with nothing but their first feature, 1.
inline std::vector<double> first_features(index_t tokens, index_t width) {
    std::vector<double> x(static_cast<std::size_t>(tokens * width), 0.0);
    for (std::size_t i = 0; i < x.size(); i += static_cast<std::size_t>(width)) x[i] = 1;
    return x;
}

/// How many of `tokens` first_features have an output that is not zero.
template <class Net>
int outputs_of_first_features(const mox::params<Net, double>& w, index_t tokens) {
    mox::tape<Net, double> t;
    const auto y = run_forward(w, first_features(tokens, Net::in), mox::batch::equal(1, tokens), t);
    int some = 0;
    for (std::size_t i = 0; i < y.size(); i += static_cast<std::size_t>(Net::out)) some += y[i] != 0 ? 1 : 0;
    return some;
}

/// Largest difference, relative to values above 1; huge when either has a NaN.
template <class A, class B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
    if (a.size() != b.size()) return 1e300;
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
        const double d = std::abs(x - y) / std::max(1.0, std::abs(y));
        if (std::isnan(d)) return 1e300;
        worst = std::max(worst, d);
    }
    return worst;
}

/// Largest difference of output and all gradients between float and double, on the same numbers.
template <class Net>
double float_distance(const mox::batch& rows, std::uint64_t seed) {
    const auto wd = random_params<Net, double>(seed);
    mox::params<Net, float> wf;
    mox::params<Net, double> rounded;
    for (const auto& info : mox::params<Net, double>::tensors()) {
        const auto v = wd.read(info);
        const std::vector<float> f(v.begin(), v.end());
        wf.write(info.path, f);
        rounded.write(info, std::vector<double>(f.begin(), f.end()));
    }
    const auto xf = normal_numbers<float>(rows.rows() * Net::in, seed + 1);
    const auto gf = normal_numbers<float>(rows.rows() * Net::out, seed + 2);
    const std::vector<double> xd(xf.begin(), xf.end()), gd(gf.begin(), gf.end());
    mox::tape<Net, float> tf;
    mox::tape<Net, double> td;
    double worst = distance(run_forward(wf, xf, rows, tf), run_forward(rounded, xd, rows, td));
    mox::params<Net, float> df;
    mox::params<Net, double> dd;
    worst = std::max(worst, distance(run_backward(wf, gf, tf, df), run_backward(rounded, gd, td, dd)));
    for (const auto& info : mox::params<Net, double>::tensors()) {
        if (info.spec.trained) worst = std::max(worst, distance(df.read(info.path), dd.read(info)));
    }
    return worst;
}

/// Output, input gradient and all gradients of one training step, one after the other.
template <class Net>
std::vector<float> step_bits(mox::executor_ref exec, const mox::batch& rows, double weight_scale = 0.5) {
    const auto w = random_params<Net, float>(4, weight_scale);
    const auto x = normal_numbers<float>(rows.rows() * Net::in, 1);
    mox::tape<Net> t(exec);
    mox::params<Net> g;
    auto all = run_forward(w, x, rows, t);
    const auto dx = run_backward(w, normal_numbers<float>(rows.rows() * Net::out, 2), t, g);
    all.insert(all.end(), dx.begin(), dx.end());
    all.insert(all.end(), g.flat().begin(), g.flat().end());
    return all;
}

/// Whether a training step gives the same bits for 1, 2 and 3 threads.
template <class Net>
bool same_for_threads(const mox::batch& rows, double weight_scale = 0.5) {
    const auto one = step_bits<Net>({}, rows, weight_scale);
    mox::thread_pool two(2), three(3);
    return step_bits<Net>(two, rows, weight_scale) == one && step_bits<Net>(three, rows, weight_scale) == one;
}

/// Whether a batch without tokens gives no output and gradients that are zero.
template <class Net>
bool nothing_from_no_token() {
    const auto all = step_bits<Net>({}, mox::batch::equal(0, 0));
    return std::all_of(all.begin(), all.end(), [](float v) { return v == 0.0f; }) &&
           all.size() == mox::params<Net>().flat().size();
}

/// The gradient of value() with regard to `of`, which it reads, by central differences.
template <class Value>
std::vector<double> central_differences(std::vector<double>& of, Value&& value) {
    std::vector<double> gradient;
    for (double& x : of) {
        const double kept = x;
        x = kept + 1e-5;
        const double up = value();
        x = kept - 1e-5;
        gradient.push_back((up - value()) / 2e-5);
        x = kept;
    }
    return gradient;
}

}  // namespace mox_test

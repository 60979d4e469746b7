#pragma once

// A network with its data, ready to be measured: forward alone, or forward and backward.

#include <memory>

#include <mox/mox.hpp>

#include "support/harness.hpp"

namespace bench {

using mox::index_t;

inline mox::buffer<float> random_rows(index_t rows, index_t cols, std::uint64_t seed) {
    mox::buffer<float> b(rows * cols);
    const mox::random_stream numbers(seed, 0);
    for (index_t i = 0; i < b.size(); ++i)
        b[i] = static_cast<float>(numbers.normal(static_cast<std::uint64_t>(i)));
    return b;
}

template <class Net>
struct steps {
    mox::params<Net> weights{mox::init::standard, 7}, grads;
    mox::thread_pool pool;
    mox::tape<Net> tape;
    mox::batch rows;
    mox::buffer<float> x, dy, dx;

    /// `sequences` of `length` random rows.
    steps(index_t threads, index_t sequences, index_t length)
        : pool(threads), tape(pool), rows(mox::batch::equal(sequences, length)),
          x(random_rows(rows.rows(), Net::in, 1)), dy(random_rows(rows.rows(), Net::out, 2)),
          dx(rows.rows() * Net::in) {}

    mox::matrix_view<const float> input() const { return {x.data(), rows.rows(), Net::in}; }

    void infer() { mox::infer<Net>(weights, input(), rows, tape); }
    void train() {
        mox::forward<Net>(weights, input(), rows, tape);
        // The next layer would write it; here it is written once and stays where it is.
        const auto g = tape.output_grad();
        if (g(0, 0) != dy[0] || g(g.rows - 1, Net::out - 1) != dy[dy.size() - 1]) {
            for (index_t t = 0; t < g.rows; ++t) std::copy_n(dy.data() + t * Net::out, Net::out, g.row(t));
        }
        mox::backward<Net>(weights, tape, grads, mox::matrix_view<float>(dx.data(), g.rows, Net::in));
    }
};

/// A competitor that calls one member function of a `Layer` made from the arguments.
template <class Layer, class... Arguments>
std::function<std::function<void()>()> run(void (Layer::*step)(), Arguments... arguments) {
    return [=] {
        auto object = std::make_shared<Layer>(arguments...);
        return [object, step] { (object.get()->*step)(); };
    };
}

}  // namespace bench

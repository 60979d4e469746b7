#pragma once

// The numbers of a network and what mox makes of them: peers start from the same and must arrive there.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/steps.hpp"

namespace bench {

struct solved {
    struct tensor {
        std::string path;
        std::vector<float> value, grad;  // row-major
    };
    std::vector<float> x, dy, y, dx;
    std::vector<tensor> tensors;  // in the order of the network
};

/// By name; the sources that measure mox add theirs.
inline std::map<std::string, solved (*)()>& solutions() {
    static std::map<std::string, solved (*)()> all;
    return all;
}

template <class Net>
solved solve(steps<Net>& net) {
    const auto copy = [](const mox::buffer<float>& b) {
        return std::vector<float>(b.data(), b.data() + b.size());
    };
    solved s;
    s.x = copy(net.x);
    s.dy = copy(net.dy);
    net.train();
    s.dx = copy(net.dx);
    for (const auto& t : mox::params<Net>::tensors())
        s.tensors.push_back({t.path, net.weights.read(t), net.grads.read(t)});
    const auto y = mox::infer<Net>(net.weights, net.input(), net.rows, net.tape);
    for (index_t t = 0; t < y.rows; ++t) s.y.insert(s.y.end(), y.row(t), y.row(t) + y.cols);
    return s;
}

}  // namespace bench

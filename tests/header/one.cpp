#include <mox/mox.hpp>

double other_unit();

using net = mox::stack<mox::rms_norm<8>, mox::linear<8, 4>>;

int main() {
    const mox::params<net> weights{mox::init::standard, 1};
    return weights.flat()[0] != 0 && other_unit() > 0 ? 0 : 1;
}

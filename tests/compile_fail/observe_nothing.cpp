// EXPECT: mox::tape::observe: the network shows nothing
#include <mox/layer/linear.hpp>
#include <mox/layer/observed.hpp>
#include <mox/model/tape.hpp>

#ifdef MOX_CORRECT
using net = mox::observed<mox::linear<4, 3>>;
#else
using net = mox::linear<4, 3>;
#endif

void look(mox::tape<net>& tape) {
    const auto nothing = [](const mox::observation<float>&) {};
    tape.observe(nothing);
}

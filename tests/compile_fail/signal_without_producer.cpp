// EXPECT: mox: this layer reads a signal that no layer before it publishes (attention_received needs a mox::attention layer earlier in the network, a shared decision a mox::sequence_gate, a pooled loss a router with balance::pooled)
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/ffn.hpp>
#include <mox/model/params.hpp>

constexpr mox::attention_spec heads{.width = 16, .heads = 2};
using amod = mox::depth<mox::swiglu<16, 24>, mox::route::attention_received, mox::keep_permille<125>>;

#ifdef MOX_CORRECT
using net = mox::stack<mox::attention<heads>, amod>;
#else
using net = mox::stack<amod, mox::attention<heads>>;
#endif

mox::params<net> weights;

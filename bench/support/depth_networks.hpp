#pragma once

// The vision transformers of end_to_end/depth.cpp, and the sizes that its peers share.

#include <string>

#include <mox/mox.hpp>

namespace bench::depth_networks {

constexpr mox::index_t sequences = 8, length = 65, width = 192, hidden = 768, head_count = 3, pairs = 2;
inline const std::string shape = "N8_T65_D192_4blocks";

constexpr mox::attention_spec heads{.width = width, .heads = head_count, .rotary = false};
using block = mox::stack<
    mox::residual<mox::layer_norm<width>, mox::attention<heads, mox::mask::full>>,
    mox::residual<mox::layer_norm<width>, mox::mlp<width, hidden, mox::activation::gelu, mox::bias::with>>>;
template <class Second>
using network = mox::stack<mox::repeat<pairs, mox::stack<block, Second>>>;

using dense = network<block>;
using mod =
    network<mox::depth<block, mox::route::learned, mox::keep_permille<500>, mox::sampling::whole_sequence>>;
using amod = network<mox::depth<block, mox::route::attention_received, mox::keep_permille<500>>>;

}  // namespace bench::depth_networks

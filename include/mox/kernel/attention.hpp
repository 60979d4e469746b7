#pragma once

// Attention over ragged batches without the tokens x tokens map, forward and backward.
//
//   attention_shape.hpp     what an attention is, how its work is cut
//   attention_tiles.hpp     products of blocks under a causal mask
//   attention_keys.hpp      keys and values packed once
//   attention_softmax.hpp   the running softmax of a block of rows
//   attention_received.hpp  column sums of the maps and their gradient
//   attention_forward.hpp, attention_backward.hpp, attention_decode.hpp

#include <mox/kernel/attention_backward.hpp>
#include <mox/kernel/attention_forward.hpp>

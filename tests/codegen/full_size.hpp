#pragma once

// The register tiles' sizes for this instruction set: what both guards of generated code look at.

#include <mox/kernel/packed_tile.hpp>
#include <mox/kernel/tile.hpp>

namespace mox_test {

using namespace mox;

using arch = simd::default_arch;
using centred = weight::int4<64>;
using moving = weight::int4<64, weight::zero::moving>;
inline constexpr int rows = static_cast<int>(kernel::product_rows),
                     vectors = static_cast<int>(kernel::panel_vectors<arch>),
                     side = static_cast<int>(kernel::dot_side<arch>),
                     bf16_rows = static_cast<int>(kernel::packed_tile_rows<weight::bf16, arch>),
                     int8_rows = static_cast<int>(kernel::packed_tile_rows<weight::int8<>, arch>),
                     int4_rows = static_cast<int>(kernel::packed_tile_rows<centred, arch>);

}  // namespace mox_test

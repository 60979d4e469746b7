// The register tiles at their full size, to be looked at by spills.awk; not run.

#include <mox/kernel/attention_tiles.hpp>
#include <mox/kernel/narrow.hpp>
#include <mox/kernel/packed_tile.hpp>
#include <mox/kernel/tile.hpp>

#include "full_size.hpp"

using namespace mox;
using namespace mox_test;

#if defined(MOX_TOO_MANY_ACCUMULATORS)
// Tiles that no register file holds: what the guard must find.
template void kernel::tile_product<float, arch, 8, 4>(const float* const*, const float*, index_t, index_t,
                                                      float* const*, const float*, bool);
template void kernel::tile_bf16<arch, 8, 4>(const kernel::packed_row<float>*, const std::byte*, index_t,
                                            const std::byte*, float*, index_t);
template void kernel::tile_int8<arch, 8, 4>(const kernel::packed_row<float>*, const std::byte*, index_t,
                                            const std::byte*, float*, index_t);
#else
template void kernel::tile_product<float, arch, rows, vectors>(const float* const*, const float*, index_t,
                                                               index_t, float* const*, const float*, bool);
template void kernel::tile_product_ahead<float, arch, rows, vectors>(const float* const*, const float*,
                                                                     index_t, index_t, float* const*,
                                                                     const float*, bool, const float*,
                                                                     const float*, index_t);
template void kernel::tile_transposed<float, arch, side, side>(const float* const*,
                                                               kernel::panel_view<const float, arch>, index_t,
                                                               float* const*, bool);
template void kernel::tile_outer<float, arch, rows, vectors>(const float* const*, index_t,
                                                             const float* const*, index_t, index_t, float*,
                                                             index_t, bool);
template void kernel::detail::tile_weighted<float, arch, rows, vectors>(const float*, index_t, const float*,
                                                                        index_t, index_t, const float*,
                                                                        float*, index_t);
#if defined(__AVX512F__)  // halves of registers
template void kernel::detail::tile_narrow<float, arch, rows>(const float* const*, const float*, index_t,
                                                             index_t, float*);
#endif
template void kernel::tile_bf16<arch, bf16_rows, vectors>(const kernel::packed_row<float>*, const std::byte*,
                                                          index_t, const std::byte*, float*, index_t);
// Bytes are widened elsewhere by instructions that outnumber the products: what they keep in memory hardly
// counts.
#if defined(__AVX512VNNI__)
template void kernel::tile_int8<arch, int8_rows, vectors>(const kernel::packed_row<float>*, const std::byte*,
                                                          index_t, const std::byte*, float*, index_t);
template void kernel::tile_int4<centred, arch, int4_rows, vectors>(const kernel::packed_row<float>*,
                                                                   const std::byte*, index_t,
                                                                   const std::byte*, float*, index_t);
template void kernel::tile_int4<moving, arch, int4_rows, vectors>(const kernel::packed_row<float>*,
                                                                  const std::byte*, index_t, const std::byte*,
                                                                  float*, index_t);
#endif
#endif

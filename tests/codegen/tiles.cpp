// The register tiles at their full size, to be looked at by spills.awk; not run.

#include <mox/kernel/tile.hpp>

using namespace mox;

namespace {

using arch = simd::default_arch;
constexpr int rows = static_cast<int>(kernel::product_rows),
              vectors = static_cast<int>(kernel::panel_vectors<arch>),
              side = static_cast<int>(kernel::dot_side<arch>);

}  // namespace

#if defined(MOX_TOO_MANY_ACCUMULATORS)
// A tile that no register file holds: what the guard must find.
template void kernel::tile_product<float, arch, 8, 4>(const float* const*, const float*, index_t, index_t,
                                                      float* const*, const float*, bool);
#else
template void kernel::tile_product<float, arch, rows, vectors>(const float* const*, const float*, index_t,
                                                               index_t, float* const*, const float*, bool);
template void kernel::tile_product_ahead<float, arch, rows, vectors>(const float* const*, const float*,
                                                                     index_t, index_t, float* const*,
                                                                     const float*, bool, const float*,
                                                                     const float*);
template void kernel::tile_transposed<float, arch, side, side>(const float* const*,
                                                               kernel::panel_view<const float, arch>, index_t,
                                                               float* const*, bool);
template void kernel::tile_outer<float, arch, rows, vectors>(const float* const*, index_t,
                                                             const float* const*, index_t, index_t, float*,
                                                             index_t, bool);
#endif

#pragma once

// Pages of 2 MB for large memory. With pages of 4 KB a core that streams through weights or activations waits
// for address translation, most of all inside a virtual machine, and the hardware's prefetching ends at every
// page.

#include <mox/core/config.hpp>

#if MOX_HUGE_PAGES && defined(__linux__)
#include <sys/mman.h>
#endif

namespace mox::inline MOX_ABI {

/// What large memory is aligned to, so that it can lie in pages of this size.
inline constexpr std::size_t huge_page = std::size_t{2} << 20;

/// Asks the system for huge pages in [p, p + bytes); only whole ones, so that no memory is lost. Returns
/// whether it agreed: Linux does unless /sys/kernel/mm/transparent_hugepage/enabled says `never`. Comes
/// before the first touch of the memory. MOX_HUGE_PAGES=0 leaves everything as it is.
inline bool ask_for_huge_pages([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) noexcept {
#if MOX_HUGE_PAGES && defined(__linux__) && defined(MADV_HUGEPAGE)
    const std::size_t whole = bytes / huge_page * huge_page;
    return whole > 0 && ::madvise(p, whole, MADV_HUGEPAGE) == 0;
#else
    return false;
#endif
}

}  // namespace mox::inline MOX_ABI

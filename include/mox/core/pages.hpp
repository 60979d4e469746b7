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

/// Whether kernels may count on large memory that the hardware reads ahead without a stop: on Linux, unless
/// MOX_HUGE_PAGES is 0. Set that where /sys/kernel/mm/transparent_hugepage/enabled says `never`: they then
/// ask for more themselves.
inline constexpr bool has_huge_pages =
#if MOX_HUGE_PAGES && defined(__linux__)
    true;
#else
    false;
#endif

/// Asks the system for huge pages in [p, p + bytes); only whole ones, so that no memory is lost. Comes before
/// the first touch of the memory. Returns whether the system took note.
inline bool ask_for_huge_pages([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) noexcept {
#if MOX_HUGE_PAGES && defined(__linux__) && defined(MADV_HUGEPAGE)
    const std::size_t whole = bytes / huge_page * huge_page;
    return whole > 0 && ::madvise(p, whole, MADV_HUGEPAGE) == 0;
#else
    return false;
#endif
}

}  // namespace mox::inline MOX_ABI

#pragma once

// Owning memory: an aligned array, and an arena that grows during the first steps and never again.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include <mox/core/config.hpp>
#include <mox/core/pages.hpp>

namespace mox::inline MOX_ABI {

/// One cache line, and the widest vector register in use.
inline constexpr std::size_t alignment = 64;

template <class T>
constexpr index_t round_up(T value, index_t multiple) noexcept {
    return (static_cast<index_t>(value) + multiple - 1) / multiple * multiple;
}

constexpr index_t divide_up(index_t value, index_t divisor) noexcept {
    return (value + divisor - 1) / divisor;
}

/// An aligned array of trivially copyable values, zeroed on creation; in huge pages where it fills them.
template <class T>
class buffer {
    static_assert(std::is_trivially_copyable_v<T>);

public:
    buffer() = default;
    explicit buffer(index_t size) : data_(allocate(size)), size_(size) { zero(); }
    buffer(const buffer& other) : data_(allocate(other.size_)), size_(other.size_) {
        if (size_ > 0) std::memcpy(data_, other.data_, bytes());
    }
    buffer(buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    buffer& operator=(buffer other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~buffer() { release(data_, bytes()); }

    T* data() noexcept { return data_; }
    const T* data() const noexcept { return data_; }
    index_t size() const noexcept { return size_; }
    std::size_t bytes() const noexcept { return static_cast<std::size_t>(size_) * sizeof(T); }
    T& operator[](index_t i) noexcept { return data_[i]; }
    const T& operator[](index_t i) const noexcept { return data_[i]; }
    void zero() noexcept {
        if (size_ > 0) std::memset(static_cast<void*>(data_), 0, bytes());
    }

private:
    static T* allocate(index_t size) {
        if (size == 0) return nullptr;
        const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
        void* p = ::operator new(bytes, alignment_of(bytes));
        if (bytes >= huge_page) ask_for_huge_pages(p, bytes);
        return static_cast<T*>(p);
    }
    static void release(T* p, std::size_t bytes) noexcept { ::operator delete(p, alignment_of(bytes)); }
    static constexpr std::align_val_t alignment_of(std::size_t bytes) noexcept {
        return std::align_val_t{bytes < huge_page ? alignment : huge_page};
    }

    T* data_ = nullptr;
    index_t size_ = 0;
};

/// A bump allocator. Pointers stay valid until `reset`; when a step needed more than one block, `reset`
/// joins them into one, so that from the second step of a given size on nothing is allocated.
class arena {
public:
    struct mark_t {
        std::size_t block, used;
    };

    template <class T>
    T* take(index_t count) {
        static_assert(std::is_trivially_destructible_v<T>);
        return reinterpret_cast<T*>(take_bytes(static_cast<std::size_t>(count) * sizeof(T)));
    }

    mark_t mark() const noexcept { return {current_, used_}; }

    /// Give back everything taken since `m`.
    void rewind(mark_t m) noexcept {
        current_ = m.block;
        used_ = m.used;
    }

    /// Give back everything. Joins blocks.
    void reset() {
        if (blocks_.size() > 1) {
            std::size_t total = 0;
            for (const auto& b : blocks_) total += b.bytes();
            blocks_.clear();
            blocks_.emplace_back(static_cast<index_t>(total));
        }
        current_ = 0;
        used_ = 0;
    }

    /// Bytes held from the system.
    std::size_t capacity() const noexcept {
        std::size_t total = 0;
        for (const auto& b : blocks_) total += b.bytes();
        return total;
    }

private:
    std::byte* take_bytes(std::size_t bytes) {
        bytes = static_cast<std::size_t>(round_up(bytes, static_cast<index_t>(alignment)));
        while (current_ < blocks_.size() && used_ + bytes > blocks_[current_].bytes()) {
            ++current_;
            used_ = 0;
        }
        if (current_ == blocks_.size()) {
            constexpr std::size_t smallest = std::size_t{1} << 16;
            std::size_t want = std::max(bytes, blocks_.empty() ? smallest : 2 * blocks_.back().bytes());
            blocks_.emplace_back(static_cast<index_t>(want));
            used_ = 0;
        }
        std::byte* p = blocks_[current_].data() + used_;
        used_ += bytes;
        return p;
    }

    std::vector<buffer<std::byte>> blocks_;
    std::size_t current_ = 0;
    std::size_t used_ = 0;
};

/// Gives back what was taken from the arena inside a scope.
class arena_scope {
public:
    explicit arena_scope(arena& a) noexcept : arena_(a), mark_(a.mark()) {}
    ~arena_scope() { arena_.rewind(mark_); }
    arena_scope(const arena_scope&) = delete;
    arena_scope& operator=(const arena_scope&) = delete;

private:
    arena& arena_;
    arena::mark_t mark_;
};

}  // namespace mox::inline MOX_ABI

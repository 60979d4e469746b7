#pragma once

// The built-in pool: threads that share a counter of tasks. The calling thread works too.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include <mox/core/error.hpp>
#include <mox/exec/executor.hpp>

namespace mox::inline MOX_ABI {

/// A fixed set of threads. `run` may be called from one thread at a time; tasks must not call `run` of the
/// same pool. An exception thrown by a task is rethrown by `run` after all threads have left the work.
class thread_pool {
public:
    /// `threads`: how many work at once, the caller included; 0 takes what the machine has.
    explicit thread_pool(index_t threads = 0) {
        check::that(threads >= 0, "mox::thread_pool", "argument 'threads' must not be negative");
        if (threads == 0) threads = static_cast<index_t>(std::thread::hardware_concurrency());
        if (threads < 1) threads = 1;
        concurrency_ = threads;
        workers_.reserve(static_cast<std::size_t>(threads - 1));
        for (index_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
    }

    ~thread_pool() {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        for (auto& w : workers_) w.join();
    }

    thread_pool(const thread_pool&) = delete;
    thread_pool& operator=(const thread_pool&) = delete;

    index_t concurrency() const noexcept { return concurrency_; }

    template <class Task>
    void run(index_t n, Task&& task) {
        if (n <= 0) return;
        if (workers_.empty() || n == 1) {
            for (index_t i = 0; i < n; ++i) task(i);
            return;
        }
        using task_type = std::remove_reference_t<Task>;
        {
            std::lock_guard lock(mutex_);
            call_ = [](void* argument, index_t i) { (*static_cast<task_type*>(argument))(i); };
            argument_ = const_cast<void*>(static_cast<const void*>(std::addressof(task)));
            size_ = n;
            next_.store(0, std::memory_order_relaxed);
            failure_ = nullptr;
            open_ = true;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        drain();
        // Nothing is left to hand out. Only threads that took part are waited for: one that the system did
        // not schedule in time (a busy machine) finds the call closed.
        {
            std::lock_guard lock(mutex_);
            open_ = false;
        }
        for (int spin = 0; spin < spins && busy_.load(std::memory_order_acquire) != 0; ++spin) pause();
        if (busy_.load(std::memory_order_acquire) != 0) {
            std::unique_lock lock(mutex_);
            done_.wait(lock, [this] { return busy_.load(std::memory_order_acquire) == 0; });
        }
        if (failure_) std::rethrow_exception(failure_);
    }

private:
    // About 20 microseconds: longer than the gap between two kernels of one layer, shorter than anybody
    // would notice as wasted processor time.
    static constexpr int spins = 2000;

    static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    void drain() noexcept {
        try {
            for (index_t i = next_.fetch_add(1, std::memory_order_relaxed); i < size_;
                 i = next_.fetch_add(1, std::memory_order_relaxed)) {
                call_(argument_, i);
            }
        } catch (...) {
            next_.store(size_, std::memory_order_relaxed);
            std::lock_guard lock(mutex_);
            if (!failure_) failure_ = std::current_exception();
        }
    }

    void work() {
        std::uint64_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < spins && generation_.load(std::memory_order_acquire) == seen; ++spin) {
                pause();
            }
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
                seen = generation_.load(std::memory_order_acquire);
                if (stop_) return;
                if (!open_) continue;
                busy_.fetch_add(1, std::memory_order_relaxed);
            }
            drain();
            if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                std::lock_guard lock(mutex_);
                done_.notify_one();
            }
        }
    }

    std::vector<std::thread> workers_;
    index_t concurrency_ = 1;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    alignas(64) std::atomic<index_t> next_{0};
    alignas(64) std::atomic<index_t> busy_{0};
    alignas(64) std::atomic<std::uint64_t> generation_{0};
    void (*call_)(void*, index_t) = nullptr;
    void* argument_ = nullptr;
    index_t size_ = 0;
    bool open_ = false;
    bool stop_ = false;
    std::exception_ptr failure_;
};

}  // namespace mox::inline MOX_ABI

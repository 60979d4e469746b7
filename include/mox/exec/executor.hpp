#pragma once

// Who runs the work. The host program chooses; the library only ever says "these n independent tasks".

#include <concepts>
#include <memory>
#include <type_traits>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

/// Runs task(0) ... task(n - 1), in any order, on any threads, and returns when all are done.
/// No result of the library depends on the order or on the number of threads.
template <class E>
concept executor = requires(E& e, index_t n, void (*task)(index_t)) {
    e.run(n, task);
    { e.concurrency() } -> std::convertible_to<index_t>;
};

/// Runs the tasks one after the other in the calling thread.
struct serial_executor {
    static constexpr index_t concurrency() noexcept { return 1; }

    template <class Task>
    void run(index_t n, Task&& task) const {
        for (index_t i = 0; i < n; ++i) task(i);
    }
};

/// A non-owning handle to any executor. Layers and kernels take this, so that they are compiled once.
class executor_ref {
public:
    executor_ref() noexcept = default;  // serial

    template <class E>
    requires(!std::same_as<std::remove_cvref_t<E>, executor_ref> && executor<E>) executor_ref(E& e)
    noexcept
        : self_(const_cast<void*>(static_cast<const void*>(std::addressof(e)))),
          concurrency_(static_cast<index_t>(e.concurrency())),
          run_([](void* self, index_t n, task_function f, void* argument) {
              static_cast<E*>(self)->run(n, [f, argument](index_t i) { f(argument, i); });
          }) {}

    index_t concurrency() const noexcept { return concurrency_; }

    template <class Task>
    void run(index_t n, Task&& task) const {
        if (n <= 0) return;
        if (self_ == nullptr || n == 1) {
            for (index_t i = 0; i < n; ++i) task(i);
            return;
        }
        using task_type = std::remove_reference_t<Task>;
        run_(
            self_, n, [](void* argument, index_t i) { (*static_cast<task_type*>(argument))(i); },
            const_cast<void*>(static_cast<const void*>(std::addressof(task))));
    }

private:
    using task_function = void (*)(void*, index_t);

    void* self_ = nullptr;
    index_t concurrency_ = 1;
    void (*run_)(void*, index_t, task_function, void*) = nullptr;
};

/// Cuts [0, size) into at most 4 pieces a thread, each at least `least` long, and calls body(begin, end).
/// `multiple`: pieces start at multiples of it.
template <class Body>
void parallel_ranges(executor_ref exec, index_t size, index_t least, Body&& body, index_t multiple = 1) {
    if (size <= 0) return;
    const index_t threads = exec.concurrency();
    index_t pieces = threads == 1 ? 1 : threads * 4;
    if (pieces * least > size) pieces = size / least;
    if (pieces < 1) pieces = 1;
    index_t step = (size + pieces - 1) / pieces;
    step = (step + multiple - 1) / multiple * multiple;
    pieces = (size + step - 1) / step;
    exec.run(pieces, [&](index_t i) {
        const index_t begin = i * step;
        const index_t end = begin + step < size ? begin + step : size;
        body(begin, end);
    });
}

}  // namespace mox::inline MOX_ABI

#pragma once

// A mixture-of-experts layer with its numbers and what mox makes of them: peers start from the same numbers
// and must arrive at the same result.

#include <map>
#include <new>
#include <string>
#include <vector>

#include "support/steps.hpp"

namespace bench {

struct moe_shape {
    index_t tokens, width, hidden, experts, chosen;

    std::string name() const {
        return "T" + std::to_string(tokens) + "_D" + std::to_string(width) + "_H" + std::to_string(hidden) +
               "_E" + std::to_string(experts) + "_k" + std::to_string(chosen);
    }
    /// Operations of a forward pass: three products per slot, the router.
    double flops() const {
        const auto d = static_cast<double>(width);
        return static_cast<double>(tokens) * d *
               (6.0 * static_cast<double>(chosen * hidden) + 2.0 * static_cast<double>(experts));
    }
};

/// The shapes that peers take part in.
inline constexpr moe_shape moe_shapes[] = {{512, 512, 1024, 8, 2},  {64, 512, 1024, 8, 2},
                                           {2048, 512, 512, 32, 4}, {512, 256, 512, 8, 2},
                                           {256, 64, 128, 4, 2},    {256, 128, 256, 4, 2}};

/// Memory in pages like those of mox::buffer: what peers read is to cost them no more than it costs mox.
template <class T>
struct page_allocator {
    using value_type = T;
    page_allocator() = default;
    template <class U>
    page_allocator(const page_allocator<U>&) {}
    T* allocate(std::size_t n) {
        void* p = ::operator new (n * sizeof(T), std::align_val_t{mox::huge_page});
        mox::ask_for_huge_pages(p, n * sizeof(T));
        return static_cast<T*>(p);
    }
    void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{mox::huge_page}); }
    bool operator==(const page_allocator&) const = default;
};

using values = std::vector<float, page_allocator<float>>;

struct moe_problem {
    moe_shape shape{};
    values x, dy, router, gate_up, down;     // row-major, experts one after the other
    values y, dx, drouter, dgate_up, ddown;  // mox's results
};

/// Every shape's problem by name; the sources that measure mox add theirs.
inline std::map<std::string, moe_problem (*)(moe_shape)>& moe_problems() {
    static std::map<std::string, moe_problem (*)(moe_shape)> all;
    return all;
}

template <class Net>
moe_problem solve(moe_shape shape) {
    steps<Net> mox(1, 1, shape.tokens);
    moe_problem p;
    p.shape = shape;
    p.x.assign(mox.x.data(), mox.x.data() + mox.x.size());
    p.dy.assign(mox.dy.data(), mox.dy.data() + mox.dy.size());
    const auto read = [](const auto& params, const char* leaf) {
        const std::vector<float> all = params.read(leaf);
        return values(all.begin(), all.end());
    };
    p.router = read(mox.weights, "router");
    p.gate_up = read(mox.weights, "gate_up");
    p.down = read(mox.weights, "down");
    mox.train();
    p.dx.assign(mox.dx.data(), mox.dx.data() + mox.dx.size());
    p.drouter = read(mox.grads, "router");
    p.dgate_up = read(mox.grads, "gate_up");
    p.ddown = read(mox.grads, "down");
    const auto y = mox::infer<Net>(mox.weights, mox.input(), mox.rows, mox.tape);
    for (index_t t = 0; t < y.rows; ++t) p.y.insert(p.y.end(), y.row(t), y.row(t) + y.cols);
    return p;
}

}  // namespace bench

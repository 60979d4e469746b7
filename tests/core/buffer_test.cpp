#include <mox/core/buffer.hpp>

#include <cstdint>
#include <utility>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("buffer: aligned, zeroed, copied and moved", "[core][buffer]") {
    buffer<float> a(100);
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % alignment == 0);
    for (index_t i = 0; i < 100; ++i) CHECK(a[i] == 0.0f);
    a[3] = 5;
    buffer<float> b = a;
    CHECK(b.data() != a.data());
    CHECK(b[3] == 5.0f);
    a[3] = 6;
    CHECK(b[3] == 5.0f);
    const float* place = a.data();
    buffer<float> c = std::move(a);
    CHECK(c.data() == place);
    CHECK(a.size() == 0);
    CHECK(a.data() == nullptr);
    b = c;
    CHECK(b[3] == 6.0f);
    CHECK(b.bytes() == 400);
    b.zero();
    CHECK(b[3] == 0.0f);
    CHECK(buffer<double>(0).data() == nullptr);
    CHECK(buffer<double>().size() == 0);
}

TEST_CASE("buffer: rounding", "[core][buffer]") {
    CHECK(round_up(0, 8) == 0);
    CHECK(round_up(1, 8) == 8);
    CHECK(round_up(8, 8) == 8);
    CHECK(divide_up(0, 3) == 0);
    CHECK(divide_up(7, 3) == 3);
    CHECK(divide_up(6, 3) == 2);
}

TEST_CASE("arena: aligned pieces that do not overlap and keep their values", "[core][buffer]") {
    arena a;
    CHECK(a.capacity() == 0);
    float* first = a.take<float>(3);
    first[2] = 7;
    double* second = a.take<double>(1 << 16);  // more than the first block holds
    second[0] = 8;
    second[(1 << 16) - 1] = 9;
    char* third = a.take<char>(1);
    *third = 'x';
    CHECK(first[2] == 7.0f);
    CHECK(second[0] == 8.0);
    CHECK(second[(1 << 16) - 1] == 9.0);
    for (const void* p : {static_cast<const void*>(first), static_cast<const void*>(second),
                          static_cast<const void*>(third)}) {
        CHECK(reinterpret_cast<std::uintptr_t>(p) % alignment == 0);
    }
}

TEST_CASE("arena: from the second step on nothing is allocated", "[core][buffer]") {
    arena a;
    const auto step = [&] {
        for (int i = 0; i < 20; ++i) a.take<double>(5000);
    };
    step();
    a.reset();
    const std::size_t held = a.capacity();
    CHECK(held >= 20 * 5000 * sizeof(double));
    const double* place = a.take<double>(1);
    a.reset();
    for (int i = 0; i < 3; ++i) {
        step();
        CHECK(a.capacity() == held);
        a.reset();
    }
    CHECK(a.take<double>(1) == place);
}

TEST_CASE("arena: scopes give back what was taken inside", "[core][buffer]") {
    arena a;
    a.take<int>(1);
    int* inside = nullptr;
    {
        const arena_scope scope(a);
        inside = a.take<int>(100);
        {
            const arena_scope inner(a);
            a.take<int>(1 << 20);
        }
    }
    CHECK(a.take<int>(100) == inside);
}

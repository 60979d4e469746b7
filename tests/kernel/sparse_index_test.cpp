#include <mox/kernel/sparse_index.hpp>

#include <bit>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::normal_numbers;

namespace {

template <class T>
struct indexed {
    using rows = kernel::sparse_rows<T>;
    using layout = kernel::panel_layout<T>;
    index_t height, width;
    buffer<T> panels;
    std::vector<std::byte> bytes;

    indexed(index_t height_, index_t width_)
        : height(height_), width(width_), panels(height * layout::padded(width)),
          bytes(static_cast<std::size_t>(rows::bytes(height, width)), std::byte{99}) {}

    kernel::panel_view<T> view() { return {panels.data(), height, layout::padded(width)}; }
    rows index() {
        kernel::index_sparse_rows<T>(kernel::panel_view<const T>(view()), width, bytes.data());
        return {bytes.data(), height, width};
    }
    // What the index says, and how many columns its lists name.
    std::pair<std::vector<T>, index_t> read() {
        constexpr index_t block = kernel::detail::sparse_columns, together = kernel::detail::sparse_height;
        const rows found = index();
        std::vector<T> all(static_cast<std::size_t>(height * width), T(0));
        index_t columns = 0, end = 0;
        for (index_t c0 = 0; c0 < width; c0 += block) {
            std::set<index_t> summed;
            for (index_t r0 = 0; r0 < height; r0 += 2) {
                const index_t first = r0 / together * together;
                const auto& pair = found.pairs(c0 / block, first)[(r0 - first) / 2];
                for (const row_t r : pair.row) {
                    if (r < together) CHECK(summed.insert(first + r).second);
                }
                for (int list = 0; list < 3; ++list) {
                    CHECK(pair.begin[list] == end);
                    while (end < pair.begin[list + 1]) {
                        std::set<row_t> places;
                        for (int i = 0; i < 2; ++i) {
                            if (list + i == 1) continue;  // a list for the other row
                            simd::placed<T> one;
                            std::memcpy(&one, found.values() + end++ * static_cast<index_t>(sizeof(one)),
                                        sizeof(one));
                            places.insert(one.place);
                            constexpr auto pitch =
                                static_cast<row_t>(kernel::detail::sparse_pitch<T, simd::default_arch>);
                            const index_t c = c0 + one.place / pitch;
                            all.at(static_cast<std::size_t>((first + pair.row[i]) * width + c)) = one.value;
                        }
                        CHECK(places.size() == 1);
                        ++columns;
                    }
                }
            }
            CHECK(static_cast<index_t>(summed.size()) == height);
        }
        CHECK(end == found.size());
        return {all, columns};
    }
};

}  // namespace

TEMPLATE_TEST_CASE("sparse_index: every value once, in its row and column", "[kernel][sparse_index]", float,
                   double) {
    using T = TestType;
    for (const index_t height : {1, 2, 5, 32, 64, 65, 131}) {
        for (const index_t width : {1, 9, 64, 150}) {
            CAPTURE(height, width);
            indexed<T> a(height, width);
            const auto numbers = normal_numbers<T>(height * width, 3);
            std::vector<T> plain;
            for (index_t i = 0; i < height * width; ++i) {
                const bool kept = (5 * i + i * i / 7) % 4 == 1;
                plain.push_back(kept ? numbers[static_cast<std::size_t>(i)] : T(i % 2 ? -0.0 : 0.0));
                a.view()(i / width, i % width) = plain.back();
            }
            CHECK(a.read().first == plain);
        }
    }
}

TEST_CASE("sparse_index: up to half of the values", "[kernel][sparse_index]") {
    indexed<float> a(4, 10);
    CHECK(a.index().size() == 0);
    for (index_t i = 0; i < 40; ++i) {
        a.view()(i / 10, i % 10) = 1;
        CHECK(a.index().size() == (i < 20 ? i + 1 : -1));
    }
    // Memory that was never written has no index.
    const std::vector<std::byte> zeros(static_cast<std::size_t>(kernel::sparse_rows<float>::bytes(4, 10)));
    CHECK(kernel::sparse_rows<float>{zeros.data(), 4, 10}.size() == -1);
}

TEST_CASE("sparse_index: what counts as a value", "[kernel][sparse_index]") {
    using limits = std::numeric_limits<float>;
    indexed<float> a(3, 70);
    a.view()(0, 0) = -0.0f;
    a.view()(1, 69) = limits::denorm_min();
    a.view()(2, 3) = limits::quiet_NaN();
    a.view()(2, 64) = -limits::infinity();
    CHECK(a.index().size() == 3);
}

TEST_CASE("sparse_index: rows of a pair share columns", "[kernel][sparse_index]") {
    indexed<float> a(32, 256);
    const auto numbers = normal_numbers<float>(32 * 256, 5);
    index_t values = 0;
    for (index_t i = 0; i < 32 * 256; ++i) {
        const float v = numbers[static_cast<std::size_t>(i)];
        a.view()(i / 256, i % 256) = v > 0.6745f ? v : 0.0f;  // a quarter of them
        values += v > 0.6745f ? 1 : 0;
    }
    // 0.875 for rows that are put together anyhow.
    CHECK(static_cast<double>(a.read().second) < 0.82 * static_cast<double>(values));
}

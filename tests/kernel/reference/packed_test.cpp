#include <mox/kernel/reference/packed.hpp>

#include <vector>

#include "../../support/catch.hpp"

using namespace mox;
namespace plain = kernel::reference;

namespace {

// One row of codes times one panel of two columns that hold the weights given, both without rounding.
template <class F>
std::vector<float> product(const std::vector<std::byte>& codes, float scale,
                           const std::vector<std::vector<double>>& columns) {
    const auto k = static_cast<index_t>(columns[0].size()), width = static_cast<index_t>(columns.size());
    std::vector<std::byte> panel(static_cast<std::size_t>(F::bytes_of_column(k) * width));
    for (index_t c = 0; c < width; ++c)
        F::pack(columns[static_cast<std::size_t>(c)].data(), k, 1, panel.data(), width, c);
    kernel::packed_row<float> row{};
    row.codes = codes.data();
    row.scale = scale;
    std::vector<float> out(static_cast<std::size_t>(width), 9.0f);
    plain::packed_tile<F, float>(1, &row, panel.data(), width, k, out.data(), width);
    return out;
}

}  // namespace

TEST_CASE("plain packed product: by hand, bf16 and int8", "[kernel][reference]") {
    std::vector<std::byte> codes(6);
    for (index_t i = 0; i < 3; ++i)
        kernel::detail::write_as(codes.data() + 2 * i, kernel::to_bf16(static_cast<float>(i + 1)));
    CHECK(product<weight::bf16>(codes, 1, {{1, 2, 4}, {-1, 0, 0.5}}) == std::vector<float>{17, 0.5});
    CHECK(plain::row_value<weight::bf16>(codes.data(), 2) == 3.0);

    // Codes of rows are 128 more than the numbers; the largest weight of a column is 127 of its units.
    const std::vector<std::byte> bytes{std::byte{129}, std::byte{126}, std::byte{128}};
    CHECK(product<weight::int8<>>(bytes, 0.5f, {{127, 10, 3}, {-127, 0, 1}}) ==
          std::vector<float>{53.5, -63.5});
    CHECK(plain::row_value<weight::int8<>>(bytes.data(), 1) == -2.0);
}

TEST_CASE("plain packed product: by hand, int4 in groups", "[kernel][reference]") {
    using format = weight::int4<3>;
    // Groups of three lie in eight places; each has a scale of its own: 7 of its units are its largest.
    std::vector<std::byte> codes(16);
    for (const std::size_t at : std::vector<std::size_t>{0, 1, 2, 8}) codes[at] = std::byte{2};
    CHECK(product<format>(codes, 1, {{7, -3, 1, 70}, {0, 0, 0, 0}}) == std::vector<float>{150, 0});
    CHECK(plain::row_value<format>(codes.data(), 3) == 2.0);
}

#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <mox/core/parameter.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// No router: all logits are zero, nothing is trained and nothing is computed. For selectors that look at
/// something else.
struct unscored {
    using policy = scorer_policy;
    static constexpr std::string_view name = "unscored";

    template <index_t In, index_t Outputs>
    static constexpr std::array<parameter, 0> parameters{};
    template <index_t In, index_t Outputs>
    static constexpr double flops = 0;
    template <class T>
    using record = std::byte;

    template <index_t In, index_t Outputs, class T, class Context>
    static std::byte forward(Context&, tensor_list<const T>, matrix_view<const T>, matrix_view<T> logits) {
        for (index_t t = 0; t < logits.rows; ++t) std::fill_n(logits.row(t), Outputs, T(0));
        return {};
    }
    template <index_t In, index_t Outputs, class T, class Context>
    static void backward(Context&, tensor_list<const T>, tensor_list<T>, matrix_view<const T>, std::byte,
                         matrix_view<const T>, matrix_view<T>) {}
};

}  // namespace mox::inline MOX_ABI::route

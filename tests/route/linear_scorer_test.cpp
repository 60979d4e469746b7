#include <mox/route/linear_scorer.hpp>

#include <cmath>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/core/random.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check_scorer(index_t tokens, index_t width, index_t outputs, double bound) {
    using layout = kernel::panel_layout<T>;
    const random_stream numbers(static_cast<std::uint64_t>(tokens * 100 + width),
                                static_cast<std::uint64_t>(outputs));
    std::uint64_t next = 0;
    const auto number = [&] { return static_cast<T>(numbers.normal(next++)); };
    buffer<T> memory(width * layout::padded(outputs)), gradient(width * layout::padded(outputs));
    const kernel::panel_view<T> r(memory.data(), width, layout::padded(outputs));
    const kernel::panel_view<T> dr(gradient.data(), width, layout::padded(outputs));
    for (index_t k = 0; k < width; ++k) {
        for (index_t e = 0; e < outputs; ++e) {
            r(k, e) = number();
            dr(k, e) = T(2);
        }
    }
    std::vector<T> x, dl, logits(static_cast<std::size_t>(tokens * outputs));
    for (index_t i = 0; i < tokens * width; ++i) x.push_back(number());
    for (index_t i = 0; i < tokens * outputs; ++i) dl.push_back(number());
    const matrix_view<const T> xs(x.data(), tokens, width), dls(dl.data(), tokens, outputs);
    const matrix_view<T> ls(logits.data(), tokens, outputs);
    route::linear_scorer::forward<T>(executor_ref(), r, xs, ls);
    for (index_t t = 0; t < tokens; ++t) {
        for (index_t e = 0; e < outputs; ++e) {
            double sum = 0;
            for (index_t k = 0; k < width; ++k)
                sum += static_cast<double>(xs(t, k)) * static_cast<double>(r(k, e));
            CHECK(std::abs(static_cast<double>(ls(t, e)) - sum) < bound);
        }
    }
    for (const bool accumulate : {true, false}) {
        for (const bool wanted : {true, false}) {
            // The scorer adds to dx, which the experts have filled before.
            std::vector<T> dx(static_cast<std::size_t>(tokens * width), T(3));
            for (index_t k = 0; k < width; ++k) {
                for (index_t e = 0; e < outputs; ++e) dr(k, e) = T(2);
            }
            route::linear_scorer::backward<T>(executor_ref(), r, dr, xs, dls,
                                              matrix_view<T>(dx.data(), tokens, width), accumulate, wanted);
            for (index_t k = 0; k < width; ++k) {
                for (index_t e = 0; e < outputs; ++e) {
                    double sum = accumulate ? 2 : 0;
                    for (index_t t = 0; t < tokens; ++t) {
                        sum += static_cast<double>(xs(t, k)) * static_cast<double>(dls(t, e));
                    }
                    CHECK(std::abs(static_cast<double>(dr(k, e)) - sum) < bound);
                }
            }
            for (index_t t = 0; t < tokens; ++t) {
                for (index_t k = 0; k < width; ++k) {
                    double sum = 3;
                    if (wanted) {
                        for (index_t e = 0; e < outputs; ++e) {
                            sum += static_cast<double>(dls(t, e)) * static_cast<double>(r(k, e));
                        }
                    }
                    CHECK(std::abs(static_cast<double>(dx[static_cast<std::size_t>(t * width + k)]) - sum) <
                          bound);
                }
            }
        }
    }
}

}  // namespace

TEST_CASE("linear scorer: logits and gradients against plain loops", "[route][linear_scorer]") {
    for (const index_t tokens : {index_t{0}, index_t{1}, index_t{9}}) {
        for (const index_t width : {index_t{1}, index_t{7}, index_t{16}}) {
            for (const index_t outputs : {index_t{1}, index_t{3}, index_t{8}, index_t{21}}) {
                check_scorer<double>(tokens, width, outputs, 1e-12);
                check_scorer<float>(tokens, width, outputs, 5e-5);
            }
        }
    }
}

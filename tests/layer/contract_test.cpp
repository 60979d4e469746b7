#include <mox/layer/contract.hpp>

#include <type_traits>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

namespace {

// A layer as a user writes it: y = 3 x, with children and signals left out.
struct triple {
    static constexpr index_t in = 2, out = 2;
    static constexpr double flops(double) { return 2; }
    template <class T>
    static void forward(context<T>&, param_ref<triple, const T>, matrix_view<const T> x, matrix_view<T> y) {
        for (index_t i = 0; i < x.rows; ++i) {
            for (index_t j = 0; j < 2; ++j) y(i, j) = 3 * x(i, j);
        }
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<triple, const T>, param_ref<triple, T>,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        if (!ctx.input_gradient) return;
        for (index_t i = 0; i < dy.rows; ++i) {
            for (index_t j = 0; j < 2; ++j) dx(i, j) = 3 * dy(i, j);
        }
    }
};

// The same with a wrong gradient.
struct wrong : triple {
    template <class T>
    static void forward(context<T>&, param_ref<wrong, const T>, matrix_view<const T> x, matrix_view<T> y) {
        for (index_t i = 0; i < x.rows; ++i) {
            for (index_t j = 0; j < 2; ++j) y(i, j) = 3 * x(i, j);
        }
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<wrong, const T>, param_ref<wrong, T>,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        for (index_t i = 0; i < dy.rows && ctx.input_gradient; ++i) {
            for (index_t j = 0; j < 2; ++j) dx(i, j) = 2 * dy(i, j);
        }
    }
};

}  // namespace

TEST_CASE("contract: a user's layer is a layer", "[layer][contract]") {
    static_assert(check_layer<triple>());
    static_assert(check_layer<linear<2, 3>>());
    static_assert(check_layer<embedding<2, 3>>());
    static_assert(std::is_same_v<input_of<embedding<2, 3>, float>, token_ids>);
    static_assert(std::is_same_v<input_of<triple, float>, matrix_view<const float>>);
    static_assert(std::is_same_v<input_of<stack<embedding<2, 3>, linear<3, 1>>, float>, token_ids>);
    using net = stack<triple, residual<triple>>;
    const params<net, double> w;
    tape<net, double> t;
    CHECK(mox_test::run_forward(w, {1, 2, -3, 4}, batch::equal(1, 2), t) ==
          std::vector<double>{12, 24, -36, 48});
    params<net, double> g;
    CHECK(mox_test::run_backward(w, {1, 0, 0, 2}, t, g) == std::vector<double>{12, 0, 0, 24});
    CHECK(net::flops(1) == 4.0);
}

TEST_CASE("contract: gradcheck tells a right layer from a wrong one", "[layer][contract]") {
    CHECK(gradcheck<triple>().passed);
    const auto r = gradcheck<wrong>();
    CHECK_FALSE(r.passed);
    CHECK(r.worst() > 0.1);
    CHECK(r.message.find("input") != std::string::npos);
}

// EXPECT: mox: a layer needs 'template <class T> static void backward(context<T>&, param_ref<layer, const T> w, param_ref<layer, T> g, matrix_view<const T> dy, matrix_view<T> dx)'
#include <mox/compose/stack.hpp>
#include <mox/layer/linear.hpp>

struct twice {
    static constexpr mox::index_t in = 8, out = 8;
    static constexpr double flops(double) { return 8; }
    template <class T>
    static void forward(mox::context<T>&, mox::param_ref<twice, const T>, mox::matrix_view<const T> x,
                        mox::matrix_view<T> y) {
        for (mox::index_t t = 0; t < x.rows; ++t) {
            for (mox::index_t j = 0; j < 8; ++j) y(t, j) = 2 * x(t, j);
        }
    }
#ifdef MOX_CORRECT
    template <class T>
    static void backward(mox::context<T>&, mox::param_ref<twice, const T>, mox::param_ref<twice, T>,
                         mox::matrix_view<const T> dy, mox::matrix_view<T> dx) {
        for (mox::index_t t = 0; t < dy.rows; ++t) {
            for (mox::index_t j = 0; j < 8; ++j) dx(t, j) = 2 * dy(t, j);
        }
    }
#endif
};

static_assert(mox::stack<mox::linear<4, 8>, twice>::out == 8);

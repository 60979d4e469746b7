// EXPECT: mox: a layer needs its input width, 'static constexpr index_t in'
#include <mox/compose/residual.hpp>

struct nothing {
#ifdef MOX_CORRECT
    static constexpr mox::index_t in = 8, out = 8;
    static constexpr double flops(double) { return 0; }
    template <class T>
    static void forward(mox::context<T>&, mox::param_ref<nothing, const T>, mox::matrix_view<const T>,
                        mox::matrix_view<T>) {}
    template <class T>
    static void backward(mox::context<T>&, mox::param_ref<nothing, const T>, mox::param_ref<nothing, T>,
                         mox::matrix_view<const T>, mox::matrix_view<T>) {}
#endif
};

mox::residual<nothing> layer;

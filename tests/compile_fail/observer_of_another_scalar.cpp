// EXPECT: mox: the 'backward' of an observer must be callable
#include <mox/layer/linear.hpp>
#include <mox/layer/observed.hpp>
#include <mox/model/tape.hpp>

struct looks {
    void operator()(const mox::observation<float>&) {}
#ifdef MOX_CORRECT
    void backward(const mox::observation<float>&, mox::matrix_view<float>) {}
#else
    void backward(const mox::observation<float>&, mox::matrix_view<double>) {}
#endif
};

void look(mox::tape<mox::observed<mox::linear<4, 3>>>& tape, looks& observer) { tape.observe(observer); }

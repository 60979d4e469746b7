// EXPECT: mox::input_statistics: a collector is made from the width of a layer
#include <mox/layer/linear.hpp>
#include <mox/model/input_statistics.hpp>

struct counts {
    explicit counts(mox::index_t) {}
#ifdef MOX_CORRECT
    template <class T>
    void add(mox::matrix_view<const T>) {}
#endif
};

mox::input_statistics<mox::observed<mox::linear<4, 3>>, counts> inputs;

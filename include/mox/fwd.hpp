#pragma once

// Names without definitions, for headers that only pass them on. Costs next to nothing to include.

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

template <class T>
struct matrix_view;
class executor_ref;
class thread_pool;
class batch;
class error;

template <class Net, class T>
class params;
template <class Net, class T>
class tape;
template <class Net, class T>
class stream;
template <class Net, class T>
class adamw;

}  // namespace mox::inline MOX_ABI

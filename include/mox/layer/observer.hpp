#pragma once

// What somebody outside a network sees of it while it runs: the inputs of the layers under mox::observed, and
// on the way back the gradients of these, to which he may add.

#include <concepts>
#include <memory>
#include <type_traits>

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// What reaches an observed layer.
template <class T>
struct observation {
    index_t index = 0;            ///< which observed layer, in the order of the network
    const void* layer = nullptr;  ///< type_id of the mox::observed
    matrix_view<const T> x;       ///< the layer's input, tokens x in; valid during the call only
};

/// A non-owning handle to whatever looks at a network: it is called with each observation of a forward pass.
/// If it has a `backward(observation, matrix_view<T> dx)`, that is called too, with the gradient of x, to
/// which it may add that of a loss on x.
template <class T>
class observer_ref {
public:
    observer_ref() noexcept = default;  // nobody

    template <class O>
    requires(std::is_object_v<O> && !std::same_as<std::remove_cvref_t<O>, observer_ref> &&
             std::invocable<O&, const observation<T>&>) explicit observer_ref(O& o) noexcept
        : self_(const_cast<void*>(static_cast<const void*>(std::addressof(o)))),
          see_([](void* self, const observation<T>& seen) { (*static_cast<O*>(self))(seen); }) {
        if constexpr (requires(const observation<T>& seen, matrix_view<T> dx) { o.backward(seen, dx); }) {
            back_ = [](void* self, const observation<T>& seen, matrix_view<T> dx) {
                static_cast<O*>(self)->backward(seen, dx);
            };
        } else {
            static_assert(
                !requires { &O::backward; },
                "mox: the 'backward' of an observer must be callable with a mox::observation and a "
                "mox::matrix_view of the scalar type of the tape");
        }
    }

    void forward(const observation<T>& seen) const {
        if (see_) see_(self_, seen);
    }
    void backward(const observation<T>& seen, matrix_view<T> dx) const {
        if (back_) back_(self_, seen, dx);
    }

private:
    void* self_ = nullptr;
    void (*see_)(void*, const observation<T>&) = nullptr;
    void (*back_)(void*, const observation<T>&, matrix_view<T>) = nullptr;
};

}  // namespace mox::inline MOX_ABI

// After the first steps nothing is allocated any more: neither in training nor in inference nor in decoding.
// This program replaces the global operator new, so it stands alone.

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"

namespace {

std::atomic<long> allocations{0};
std::atomic<long> releases{0};
std::atomic<bool> counting{false};

void* take(std::size_t size) {
    if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
    void* p = std::malloc(size == 0 ? 1 : size);
    if (p == nullptr) throw std::bad_alloc();
    return p;
}

void* take(std::size_t size, std::align_val_t align) {
    if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
    const auto a = static_cast<std::size_t>(align);
    void* p = std::aligned_alloc(a, (size + a - 1) / a * a + (size == 0 ? a : 0));
    if (p == nullptr) throw std::bad_alloc();
    return p;
}

void give(void* p) noexcept {
    if (p != nullptr && counting.load(std::memory_order_relaxed))
        releases.fetch_add(1, std::memory_order_relaxed);
    std::free(p);
}

}  // namespace

void* operator new(std::size_t n) { return take(n); }
void* operator new[](std::size_t n) { return take(n); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return take(n); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return take(n); }
void* operator new(std::size_t n, std::align_val_t a) { return take(n, a); }
void* operator new[](std::size_t n, std::align_val_t a) { return take(n, a); }
void* operator new(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept { return take(n, a); }
void* operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept { return take(n, a); }
void operator delete(void* p) noexcept { give(p); }
void operator delete[](void* p) noexcept { give(p); }
void operator delete(void* p, std::size_t) noexcept { give(p); }
void operator delete[](void* p, std::size_t) noexcept { give(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { give(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { give(p); }
void operator delete(void* p, std::align_val_t) noexcept { give(p); }
void operator delete[](void* p, std::align_val_t) noexcept { give(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { give(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { give(p); }
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept { give(p); }
void operator delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept { give(p); }

namespace {

using mox::index_t;
using mox::row_t;

// Counts allocations of all threads in its lifetime.
class count_allocations {
public:
    count_allocations() {
        allocations = 0;
        releases = 0;
        counting = true;
    }
    ~count_allocations() { counting = false; }
    long stop() {
        counting = false;
        return allocations.load();
    }
};

constexpr mox::attention_spec heads{.width = 32, .heads = 4, .kv_heads = 2};
using attend = mox::residual<mox::rms_norm<32>, mox::attention<heads>>;
using mixture = mox::moe<mox::experts<4, mox::swiglu<32, 40>>, mox::route::top_k<3>, mox::null_experts<3>,
                         mox::balance::load<>, mox::balance::load_per_sequence<>, mox::balance::z_loss<>,
                         mox::shared<mox::swiglu<32, 24>>>;
using limited = mox::moe<mox::experts<4, mox::mlp<32, 40, mox::activation::gelu, mox::bias::with>>,
                         mox::route::top_k<2>, mox::gate::softmax>;
using block = mox::stack<attend, mox::residual<mox::rms_norm<32>, mixture>>;
using sparse = mox::depth<mox::stack<attend, mox::residual<mox::layer_norm<32>, limited>>,
                          mox::route::learned, mox::keep_permille<500>>;
using net = mox::stack<mox::embedding<50, 32>, mox::repeat<2, mox::stack<block, sparse>>, mox::rms_norm<32>,
                       mox::linear<32, 50>>;

// Attention scores as depth router: signals and the two-pass column sums.
using listening =
    mox::stack<mox::embedding<50, 32>, attend,
               mox::depth<mox::residual<mox::swiglu<32, 40>>, mox::route::attention_received,
                          mox::keep_permille<400>, mox::weighting::sigmoid, mox::score_gradient::kept>,
               mox::depth<mox::residual<mox::swiglu<32, 40>>, mox::route::attention_received_per_query,
                          mox::keep_permille<400>, mox::sampling::predictor<8>, mox::always_first<2>>,
               mox::depth<mox::residual<mox::swiglu<32, 40>>, mox::route::random, mox::keep_permille<400>,
                          mox::sampling::threshold>,
               mox::linear<32, 50>>;

// Adapters of every kind around frozen layers.
constexpr mox::adapter_spec rank4{.rank = 4, .alpha = 8, .dropout = 0.1};
constexpr mox::mixlora_spec shared_base{.adapter = {.rank = 4}},
    scaled_base{.adapter = rank4, .magnitudes = true, .biases = true};
using adapted = mox::stack<
    mox::frozen<mox::embedding<50, 32>>,
    mox::observed<mox::residual<mox::frozen<mox::rms_norm<32>>,
                                mox::attention<heads, mox::mask::causal, mox::with_lora<rank4>>>>,
    mox::residual<mox::attention<
        heads, mox::mask::causal,
        mox::with_each<mox::with_lora<rank4>, mox::as_frozen,
                       mox::with_lora_experts<4, rank4, mox::route::top_k<2>>, mox::as_frozen>>>,
    mox::residual<
        mox::adapted_ffn<32, 24, mox::activation::silu,
                         mox::with_lora_experts<4, rank4, mox::route::top_k<2>, mox::balance::load<>>>>,
    mox::residual<mox::mixlora<32, 24, mox::activation::silu, 4, shared_base, mox::route::top_k<2>>>,
    mox::moe<mox::experts<4, mox::lora_expert<mox::swiglu<32, 24>, rank4>>, mox::route::top_k<2>,
             mox::route::frozen_linear_scorer>,
    mox::lora<mox::linear<32, 32>, rank4, mox::rank_gate::sigmoid_top_k<2>>,
    mox::lora<mox::linear<32, 32>, rank4, mox::rank_gate::strongest<2>>,
    mox::lora_experts<mox::linear<32, 32>, 3, rank4, mox::route::sequence_max_linear,
                      mox::route::hard_inference>,
    mox::lora<mox::linear<32, 32>, rank4,
              mox::rank_gate::sigmoid_top_k<2, 1, mox::coefficient{1e-5},
                                            mox::rank_gate::score_form::softmax_on_selected,
                                            mox::coefficient{0.5}>>,
    mox::prelu<32>,
    mox::lora<mox::linear<32, 50>, rank4, mox::rank_gate::balanced<mox::rank_gate::self_activated<2>>>>;

// One decision for several layers, routers with tensors of their own and with noise, a loss over all of them.
constexpr mox::adapter_spec plain4{.rank = 4};
using decided = mox::stack<
    mox::embedding<50, 32>, mox::sequence_gate<32, 4>,
    mox::lora_experts<mox::linear<32, 32>, 4, rank4, mox::route::shared_decision<4>,
                      mox::route::hard_inference>,
    mox::mixlora<32, 24, mox::activation::silu, 4, shared_base, mox::route::shared_decision<4>,
                 mox::route::top_k<2>, mox::balance::pooled>,
    mox::lora_experts<mox::linear<32, 32>, 4, rank4, mox::route::sequence_mlp_scorer<8>, mox::route::top_k<2>,
                      mox::balance::pooled>,
    mox::lora_experts<mox::linear<32, 32>, 4, rank4, mox::route::jitter<mox::coefficient{0.1}>,
                      mox::route::top_p<mox::coefficient{0.8}>, mox::gate::softmax, mox::balance::pooled>,
    mox::pooled_load<32, 4>,
    mox::mixlora<32, 24, mox::activation::silu, 4, scaled_base, mox::route::top_k<2>>,
    mox::dora<mox::linear<32, 50>, plain4>>;

// A router that needs the masks of the batch, and a loss that looks at its labels.
using masked = mox::stack<mox::embedding<50, 32>,
                          mox::moe<mox::experts<4, mox::swiglu<32, 24>>, mox::route::masked_top_k<2>>,
                          mox::lora_experts<mox::linear<32, 32>, 4, rank4, mox::route::all,
                                            mox::gate::softmax, mox::balance::localised<>>,
                          mox::linear<32, 50>>;

// Weights of fewer bits, and adapters on them.
template <class F>
using packed = mox::with_weights<net, F>;
using qlora = mox::with_weights<adapted, mox::weight::int4<>>;

std::vector<row_t> some_ids(index_t n, std::uint64_t seed) {
    std::vector<row_t> ids;
    const mox::random_stream numbers(seed, 3);
    for (index_t i = 0; i < n; ++i) {
        ids.push_back(static_cast<row_t>(numbers.bits(static_cast<std::uint64_t>(i)) % 50u));
    }
    return ids;
}

template <class Net>
long allocations_of_training(mox::executor_ref exec) {
    mox::params<Net> weights{mox::init::standard, 1};
    mox::params<Net> grads;
    mox::tape<Net> tape(exec);
    mox::adamw<Net> optimiser{{.rate = 1e-2}};
    mox::batch rows = mox::batch::ragged({17, 0, 1, 33, 13});
    rows.with_allowed_experts({1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 0}, 4);
    rows.with_labels({0, 1, 1, 0, 1});
    // The routing changes from step to step; other ids in every step make sure of that.
    std::vector<std::vector<row_t>> ids, targets;
    for (std::uint64_t s = 0; s < 7; ++s) {
        ids.push_back(some_ids(rows.rows(), s));
        targets.push_back(some_ids(rows.rows(), s + 100));
    }
    const auto step = [&](std::size_t s) {
        const auto logits = mox::forward<Net>(weights, ids[s], rows, tape);
        const float loss = mox::cross_entropy<float>(logits, targets[s], tape.output_grad(), exec);
        mox::backward<Net>(weights, tape, grads);
        mox::clip_by_global_norm(grads, 1.0, exec);
        optimiser.step(weights, grads, 1.0, exec);
        return loss;
    };
    float first = step(0), last = step(1);
    count_allocations counter;
    for (std::size_t s = 2; s < 7; ++s) last = step(s);
    const long n = counter.stop();
    REQUIRE(std::isfinite(first));
    REQUIRE(std::isfinite(last));
    REQUIRE(releases.load() == 0);
    return n;
}

template <class Net>
long allocations_of_inference(mox::executor_ref exec) {
    const mox::params<Net> weights{mox::init::standard, 1};
    mox::tape<Net> tape(exec);
    const mox::batch rows = mox::batch::ragged({40, 3, 0, 20});
    std::vector<std::vector<row_t>> ids;
    for (std::uint64_t s = 0; s < 7; ++s) ids.push_back(some_ids(rows.rows(), s));
    float sum = 0;
    const auto step = [&](std::size_t s) {
        sum += mox::infer<Net>(weights, ids[s], rows, tape)(0, 0);
        sum += mox::infer<Net>(weights, ids[s], tape)(0, 0);
    };
    step(0);
    step(1);
    count_allocations counter;
    for (std::size_t s = 2; s < 7; ++s) step(s);
    const long n = counter.stop();
    REQUIRE(std::isfinite(sum));
    return n;
}

}  // namespace

TEST_CASE("the counter counts every form of allocation", "[allocation]") {
    {
        count_allocations counter;
        // Volatile, else compilers may leave the pair of new and delete out.
        int* volatile p = new int(3);
        REQUIRE(counter.stop() == 1);
        delete p;
    }
    {
        count_allocations counter;
        std::vector<double> v(10);
        const double* volatile seen = v.data();
        const long n = counter.stop();
        REQUIRE(seen == v.data());
        REQUIRE(n == 1);
        REQUIRE(v.size() == 10);
    }
    {
        count_allocations counter;
        mox::buffer<float> b(100);
        const long n = counter.stop();
        REQUIRE(n == 1);
        REQUIRE(b.size() == 100);
    }
    {
        count_allocations counter;
        mox::arena a;
        (void)a.take<float>(10);
        const long n = counter.stop();
        REQUIRE(n > 0);
    }
    {
        count_allocations counter;
        std::thread t([] {
            std::vector<int> v(100);
            v[3] = 1;
        });
        t.join();
        const long n = counter.stop();
        REQUIRE(n >= 2);  // the thread's own state and the vector
    }
    // Outside a counter nothing is counted.
    const long before = allocations.load();
    auto* q = new int(1);
    delete q;
    REQUIRE(allocations.load() == before);
}

TEST_CASE("the first training step does allocate", "[allocation]") {
    const mox::params<net> weights{mox::init::standard, 1};
    mox::tape<net> tape;
    const auto ids = some_ids(20, 1);
    count_allocations counter;
    (void)mox::forward<net>(weights, ids, tape);
    REQUIRE(counter.stop() > 0);
}

TEST_CASE("training steps allocate nothing after two of them", "[allocation]") {
    SECTION("serial") {
        REQUIRE(allocations_of_training<net>({}) == 0);
        REQUIRE(allocations_of_training<listening>({}) == 0);
        REQUIRE(allocations_of_training<adapted>({}) == 0);
        REQUIRE(allocations_of_training<decided>({}) == 0);
        REQUIRE(allocations_of_training<masked>({}) == 0);
        REQUIRE(allocations_of_training<qlora>({}) == 0);
    }
    SECTION("a pool of two threads") {
        mox::thread_pool pool(2);
        REQUIRE(allocations_of_training<net>(pool) == 0);
        REQUIRE(allocations_of_training<listening>(pool) == 0);
        REQUIRE(allocations_of_training<adapted>(pool) == 0);
        REQUIRE(allocations_of_training<decided>(pool) == 0);
        REQUIRE(allocations_of_training<masked>(pool) == 0);
    }
}

TEST_CASE("a loss on hidden states allocates nothing after two steps", "[allocation]") {
    using seen =
        mox::stack<mox::embedding<64, 8>, mox::repeat<3, mox::observed<mox::residual<mox::linear<8, 8>>>>,
                   mox::observed<mox::linear<8, 64>>>;
    const mox::params<seen> teacher{mox::init::standard, 1}, weights{mox::init::standard, 2};
    mox::params<seen> grads;
    mox::tape<seen> tape, other;
    mox::hidden_loss<float> hidden(0.1);
    tape.observe(hidden);
    other.observe(hidden);
    const auto ids = some_ids(20, 1);
    float sum = 0;
    const auto step = [&] {
        hidden.teach();
        (void)mox::infer<seen>(teacher, ids, other);
        hidden.learn();
        (void)mox::forward<seen>(weights, ids, tape);
        sum += hidden.value();
        const auto dy = tape.output_grad();
        for (mox::index_t i = 0; i < dy.rows; ++i) std::fill_n(dy.row(i), dy.cols, 0.0f);
        mox::backward<seen>(weights, tape, grads);
    };
    step();
    step();
    count_allocations counter;
    for (int s = 0; s < 5; ++s) step();
    REQUIRE(counter.stop() == 0);
    REQUIRE(sum > 0);
}

TEST_CASE("distillation allocates nothing", "[allocation]") {
    const std::vector<float> teacher(20 * 50, 0.25f), student(20 * 50, 0.5f);
    std::vector<float> gradient(20 * 50);
    const auto step = [&] {
        return mox::distill<float>({student.data(), 20, 50}, {teacher.data(), 20, 50}, 2.0,
                                   mox::matrix_view<float>(gradient.data(), 20, 50));
    };
    float sum = 0;
    count_allocations counter;
    for (int s = 0; s < 5; ++s) sum += step();
    REQUIRE(counter.stop() == 0);
    REQUIRE(sum > 0);
}

TEST_CASE("drawing blocks and training only those allocates nothing after two steps", "[allocation]") {
    using blocks = mox::stack<mox::embedding<64, 8>, mox::repeat<4, mox::residual<mox::linear<8, 8>>>,
                              mox::linear<8, 64>>;
    const auto run = [](mox::executor_ref exec) {
        mox::params<blocks> weights{mox::init::standard, 1}, grads;
        mox::tape<blocks> tape(exec);
        mox::adamw<blocks> adam;
        mox::projected_adamw<blocks> low({.rank = 2, .interval = 2});
        mox::trainable_mask<blocks> mask;
        auto draw = mox::schedule::lisa(mask.blocks, {.active = 2, .interval = 1}, 3);
        const auto ids = some_ids(20, 1);
        double sum = 0;
        const auto step = [&](mox::index_t s) {
            if (s > 0) mask.only(draw(s));
            (void)mox::forward<blocks>(weights, ids, tape);
            const auto dy = tape.output_grad();
            for (mox::index_t i = 0; i < dy.rows; ++i) {
                for (mox::index_t j = 0; j < dy.cols; ++j) dy(i, j) = i == j ? 1.0f : 0.0f;
            }
            mox::backward<blocks>(weights, tape, grads, mask);
            sum += mox::clip_by_global_norm(grads, mask, 1.0, exec);
            adam.step(weights, grads, mask, 1.0, exec);
            low.step(weights, grads, mask, 1.0, exec);
        };
        step(0);
        step(1);
        count_allocations counter;
        for (mox::index_t s = 2; s < 8; ++s) step(s);
        const long n = counter.stop();
        REQUIRE(std::isfinite(sum));
        return n;
    };
    SECTION("serial") { REQUIRE(run({}) == 0); }
    SECTION("a pool of two threads") {
        mox::thread_pool pool(2);
        REQUIRE(run(pool) == 0);
    }
}

TEST_CASE("inference allocates nothing after two calls", "[allocation]") {
    SECTION("serial") {
        REQUIRE(allocations_of_inference<net>({}) == 0);
        REQUIRE(allocations_of_inference<listening>({}) == 0);
        REQUIRE(allocations_of_inference<adapted>({}) == 0);
        REQUIRE(allocations_of_inference<packed<mox::weight::bf16>>({}) == 0);
        REQUIRE(allocations_of_inference<packed<mox::weight::int8<>>>({}) == 0);
    }
    SECTION("a pool of two threads") {
        mox::thread_pool pool(2);
        REQUIRE(allocations_of_inference<net>(pool) == 0);
        REQUIRE(allocations_of_inference<listening>(pool) == 0);
        REQUIRE(allocations_of_inference<adapted>(pool) == 0);
        REQUIRE(allocations_of_inference<packed<mox::weight::int4<>>>(pool) == 0);
    }
}

TEST_CASE("a pool of adapters allocates nothing after two steps", "[allocation]") {
    using served = mox::lora_pool<mox::linear<32, 50>, mox::pool_spec{.adapters = 3, .ranks = 9}>;
    const auto run = [](mox::executor_ref exec) {
        mox::params<served> weights{mox::init::standard, 1}, grads;
        weights.write("rank", std::vector<float>{4, 0, 5});
        weights.write("first", std::vector<float>{0, 0, 4});
        weights.write("scale", std::vector<float>{1, 1, 1});
        mox::tape<served> tape(exec);
        mox::batch rows = mox::batch::ragged({17, 1, 33, 13});
        rows.with_labels({0, 2, -1, 2});
        const std::vector<float> x(static_cast<std::size_t>(64 * 32), 0.5f);
        const auto step = [&] {
            const auto y = mox::forward<served>(weights, {x.data(), 64, 32}, rows, tape);
            const auto dy = tape.output_grad();
            for (index_t t = 0; t < y.rows; ++t) std::copy_n(y.row(t), y.cols, dy.row(t));
            mox::backward<served>(weights, tape, grads);
        };
        step();
        step();
        count_allocations counter;
        for (int s = 0; s < 5; ++s) step();
        return counter.stop();
    };
    REQUIRE(run({}) == 0);
    mox::thread_pool threads(2);
    REQUIRE(run(threads) == 0);
}

TEST_CASE("decoding allocates nothing after a prompt and two tokens", "[allocation]") {
    const auto run = [](auto network, mox::executor_ref exec) {
        using decoded = typename decltype(network)::type;
        const mox::params<decoded> weights{mox::init::standard, 1};
        mox::stream<decoded> stream(64, exec);
        const auto ids = some_ids(30, 4);
        const auto feed = [&](index_t begin, index_t n) {
            const mox::token_ids all(ids);
            return mox::decode<decoded>(
                weights, all.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n)),
                stream)(0, 0);
        };
        float sum = feed(0, 20) + feed(20, 1) + feed(21, 1);
        count_allocations counter;
        for (index_t t = 22; t < 27; ++t) sum += feed(t, 1);
        stream.reset();
        sum += feed(0, 20);
        const long n = counter.stop();
        REQUIRE(std::isfinite(sum));
        REQUIRE(stream.length() == 20);
        return n;
    };
    SECTION("serial") { REQUIRE(run(mox::type_tag<net>{}, {}) == 0); }
    SECTION("a pool of two threads") {
        mox::thread_pool pool(2);
        REQUIRE(run(mox::type_tag<net>{}, pool) == 0);
        REQUIRE(run(mox::type_tag<packed<mox::weight::int8<>>>{}, pool) == 0);
    }
}

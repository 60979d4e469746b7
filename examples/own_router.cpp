// A router of one's own: experts choose by threshold instead of by rank. A selector is one struct; everything
// else (gates, plan, kernels, backward) stays as it is.

#include <cstdio>

#include <mox/mox.hpp>

/// Every token takes its best expert, and its second one only when that one's logit is close to the best.
/// Slots that are not wanted go to the null expert behind the true ones, which costs nothing.
template <mox::index_t Experts, mox::coefficient Gap = mox::coefficient{0.5}>
struct close_second {
    using policy = mox::route::selector_policy;
    static constexpr std::string_view name = "close_second";
    static constexpr mox::index_t slots = 2;

    template <class T>
    static void select(mox::executor_ref exec, mox::matrix_view<const T> logits, mox::row_t* chosen) {
        mox::parallel_ranges(exec, logits.rows, 256, [&](mox::index_t begin, mox::index_t end) {
            for (mox::index_t t = begin; t < end; ++t) {
                mox::row_t* pick = chosen + 2 * t;
                mox::kernel::top_k_row<T>(logits.row(t), Experts, 2, pick);
                const T gap = logits(t, pick[0]) - logits(t, pick[1]);
                if (gap > static_cast<T>(Gap.value)) pick[1] = static_cast<mox::row_t>(Experts);
            }
        });
    }
};

using layer = mox::moe<mox::experts<4, mox::swiglu<16, 32>>, close_second<4>, mox::null_experts<1>>;

int main() {
    // The gradient check is the test every router needs.
    const auto check = mox::gradcheck<layer>({.tokens = 9, .seed = 3});
    std::printf("gradcheck: %s, worst difference %.1e\n", check.message.c_str(), check.worst());

    const mox::params<layer> weights{mox::init::standard, 1};
    mox::buffer<float> x(64 * 16);
    const mox::random_stream numbers(1, 0);
    for (mox::index_t i = 0; i < x.size(); ++i) {
        x[i] = 8 * static_cast<float>(numbers.normal(static_cast<std::uint64_t>(i)));
    }
    mox::tape<layer> tape;
    mox::infer<layer>(weights, mox::matrix_view<const float>(x.data(), 64, 16), tape);
    const auto stats = tape.stats<layer>();
    std::printf("%lld of %lld slots were not needed\n", static_cast<long long>(stats.nulls),
                static_cast<long long>(stats.slots));
    return check.passed ? 0 : 1;
}

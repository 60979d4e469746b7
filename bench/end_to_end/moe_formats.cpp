// A mixture-of-experts layer with weights in every format: decoding, where the time is the reading of
// weights, and prefill, where it is arithmetic.

#include <string>

#include "support/steps.hpp"

namespace {

using mox::index_t;

constexpr index_t width = 512, hidden = 1024, chosen = 8;

template <index_t Experts, class Weight>
using mixture =
    mox::moe<mox::experts<Experts, mox::swiglu<width, hidden, Weight>>, mox::route::top_k<chosen>>;

// Steps of a few tokens whose experts were last read so long ago that no cache holds them: token i of a step
// is the sum of the router's columns of the experts it is meant for, which take turns. Neighbouring tokens of
// a step share half of their experts.
template <index_t Experts, class Weight>
struct decoding {
    using layer = mixture<Experts, Weight>;
    static constexpr index_t steps = 16;

    mox::params<layer> weights{mox::init::standard, 7};
    mox::thread_pool pool;
    mox::tape<layer> tape;
    index_t tokens, next = 0;
    mox::buffer<float> x;

    static constexpr index_t experts_of(index_t tokens_) { return chosen / 2 * (tokens_ + 1); }

    decoding(index_t threads, index_t tokens_)
        : pool(threads), tape(pool), tokens(tokens_), x(turns() * tokens_ * width) {
        const auto router = weights.read("router");
        for (index_t s = 0; s < turns(); ++s) {
            for (index_t t = 0; t < tokens; ++t) {
                for (index_t j = 0; j < chosen; ++j) {
                    const index_t e = (s * experts_of(tokens) + t * chosen / 2 + j) % Experts;
                    for (index_t k = 0; k < width; ++k)
                        x[(s * tokens + t) * width + k] +=
                            4 * router[static_cast<std::size_t>(k * Experts + e)];
                }
            }
        }
    }

    index_t turns() const { return Experts / experts_of(tokens); }

    void infer() {
        for (index_t i = 0; i < steps; ++i) {
            mox::infer<layer>(weights, {x.data() + next * tokens * width, tokens, width}, tape);
            next = (next + 1) % turns();
        }
    }
};

/// Bytes of one expert.
template <class Weight>
double expert_bytes() {
    double bytes = 0;
    for (const auto& t : mox::params<mixture<8, Weight>>::tensors()) {
        if (t.path != "router") bytes += static_cast<double>(mox::params<mixture<8, Weight>>::bytes(t)) / 8;
    }
    return bytes;
}

// Experts: so many that a turn through all of them reads more than 200 MB.
template <index_t Experts, class Weight>
void add_decoding(std::vector<bench::group>& groups, const std::string& format, double goal) {
    using layer = decoding<Experts, Weight>;
    for (const index_t tokens : {1, 4}) {
        groups.push_back(
            {"moe_formats/decode_" + format + "/T" + std::to_string(tokens) + "_D512_H1024_k8",
             layer::steps * static_cast<double>(layer::experts_of(tokens)) * expert_bytes<Weight>(),
             bench::limit::read_bandwidth,
             {{goal, 0, ""}},
             {{"mox", bench::run(&layer::infer, index_t{1}, tokens)},
              {"mox_2_threads", bench::run(&layer::infer, index_t{2}, tokens), 0, 2}}});
    }
}

constexpr index_t prompt = 512, prompt_experts = 8, prompt_chosen = 2;
template <class Weight>
using prefill = bench::steps<mox::moe<mox::experts<prompt_experts, mox::swiglu<width, hidden, Weight>>,
                                      mox::route::top_k<prompt_chosen>>>;

template <class Weight>
void add_prefill(std::vector<bench::group>& groups, const std::string& format, bench::limit limit,
                 double goal) {
    std::vector<bench::goal> goals{{.peer = "mox_2_threads", .at_least = 1.9}};
    if (goal > 0) goals.push_back({goal, 0, ""});
    groups.push_back(
        {"moe_formats/prefill_" + format + "/T512_D512_H1024_E8_k2",
         6.0 * prompt * prompt_chosen * width * hidden + 2.0 * prompt * width * prompt_experts,
         limit,
         goals,
         {{"mox", bench::run(&prefill<Weight>::infer, index_t{1}, index_t{1}, prompt)},
          {"f32", bench::run(&prefill<mox::weight::f32>::infer, index_t{1}, index_t{1}, prompt)},
          {"mox_2_threads", bench::run(&prefill<Weight>::infer, index_t{2}, index_t{1}, prompt), 0, 2}}});
}

const bench::registration add([](std::vector<bench::group>& groups) {
    add_decoding<64, mox::weight::f32>(groups, "f32", 0.90);
    add_decoding<80, mox::weight::bf16>(groups, "bf16", 0.90);
    add_decoding<144, mox::weight::int8<>>(groups, "int8", 0.88);
    // From the last cache a core works on codes of 4 bits at 54 GB/s with one row and 48 with two, twice what
    // memory gives: half of the time is its own, and the hardware overlaps the most, not all of it (asking in
    // advance: 0.64 to 0.78). Two threads reach 0.93 and 0.97.
    add_decoding<256, mox::weight::int4<>>(groups, "int4", 0.85);
    add_prefill<mox::weight::bf16>(groups, "bf16", bench::limit::dot_bf16, 0.80);
    add_prefill<mox::weight::int8<>>(groups, "int8", bench::limit::dot_int8, 0.65);
    add_prefill<mox::weight::int4<>>(groups, "int4", bench::limit::dot_int8, 0);
});

}  // namespace

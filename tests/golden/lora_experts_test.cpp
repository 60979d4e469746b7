// Low-rank experts against the authors' code.

#include <vector>

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"

using mox::index_t;
using mox_test::adapter_case;
using mox_test::exact;
using mox_test::rounded;
using mox_test::spec;

namespace {

template <index_t In, index_t Out, index_t E, mox::adapter_spec Spec, class... Policies>
using bank = mox::lora_experts<mox::linear<In, Out>, E, Spec, Policies...>;

// Task, routing and one loss of a case, in double and in float.
template <class Net, class T>
void check_case(const std::string& name, const std::string& loss, double bound, bool with_index) {
    INFO(name << ", " << loss);
    adapter_case<Net, T> r(name);
    CHECK(r.task_error() < bound);
    CHECK(r.routing_error(with_index) < bound);
    CHECK(r.loss_error(loss) < bound);
}
template <class Net>
void check_experts(const std::string& name, const std::string& loss, bool with_index = true) {
    check_case<Net, double>(name, loss, exact, with_index);
    check_case<Net, float>(name, loss, rounded, with_index);
}

constexpr mox::coefficient unit{1.0};
using load = mox::balance::load<unit>;

}  // namespace

TEST_CASE("golden: mola", "[golden][lora]") {
    check_experts<bank<12, 9, 5, spec<3>(16), mox::route::top_k<2>, load>>("mola-basic", "balance");
    check_experts<bank<11, 8, 5, spec<3>(6), mox::route::top_k<2>, load>>("mola-ties", "balance");
    check_experts<bank<10, 7, 4, spec<2>(8), mox::route::top_k<2>, load>>("mola-idle", "balance");
}

TEST_CASE("golden: llava-mole", "[golden][lora]") {
    using mox::gate::one;
    using mox::route::top_k;
    using counts = mox::balance::counts<unit>;
    check_experts<bank<12, 9, 3, spec<4>(2), top_k<1>, one, counts>>("llavamole-hard", "balance_sum");
    check_experts<bank<12, 9, 3, spec<4>(2), top_k<1>, one, load>>("llavamole-hard", "balance_switch");
    check_experts<bank<10, 8, 4, spec<2>(4), top_k<1>, one, counts>>("llavamole-idle", "balance_sum");
    check_experts<bank<10, 8, 4, spec<2>(4), top_k<1>, one, load>>("llavamole-idle", "balance_switch");
}

TEST_CASE("golden: loramoe", "[golden][lora]") {
    using mox::coefficient;
    using basic = bank<8, 7, 4, spec<2>(4), mox::route::all, mox::gate::softmax,
                       mox::balance::localised<unit, coefficient{0.1}>>;
    using same = bank<9, 6, 6, spec<3>(6), mox::route::all, mox::gate::softmax,
                      mox::balance::localised<unit, coefficient{0.0}>>;
    const auto check = [](auto&& r, double bound) {
        std::vector<mox::row_t> types;
        for (const auto t : r.file.integers("in.task_type").values)
            types.push_back(static_cast<mox::row_t>(t));
        r.rows.with_labels(types);
        CHECK(r.task_error() < bound);
        CHECK(r.routing_error() < bound);
        CHECK(r.loss_error("lbc") < bound);
    };
    check(adapter_case<basic, double>("loramoe-basic"), exact);
    check(adapter_case<basic, float>("loramoe-basic"), rounded);
    check(adapter_case<same, double>("loramoe-delta0"), exact);
    check(adapter_case<same, float>("loramoe-delta0"), rounded);
}

TEST_CASE("golden: lora-mixer, both signs of the entropy", "[golden][lora]") {
    using mox::coefficient;
    using mox::gate::renormalised;
    using mox::gate::softmax;
    using mox::route::all;
    using mox::route::top_k;
    using printed = mox::balance::specialisation<3, unit, coefficient{-0.1}>;
    using described = mox::balance::specialisation<3, unit, coefficient{0.1}>;
    check_experts<bank<12, 9, 5, spec<3>(6), all, softmax, printed>>("loramixer-soft", "rsl_printed", false);
    check_experts<bank<12, 9, 5, spec<3>(6), all, softmax, described>>("loramixer-soft", "rsl_specialise",
                                                                       false);
    check_experts<bank<11, 7, 6, spec<2>(4), top_k<3>, renormalised, printed>>("loramixer-top3",
                                                                               "rsl_printed");
    check_experts<bank<11, 7, 6, spec<2>(4), top_k<3>, renormalised, described>>("loramixer-top3",
                                                                                 "rsl_specialise");
}

TEST_CASE("golden: dynmole", "[golden][lora]") {
    using mox::coefficient;
    using mox::gate::softmax;
    using mox::route::entropy_broadcast;
    using soft = mox::balance::soft_load<unit>;
    using mox::balance::mean_entropy;
    using tsallis = mox::entropy::tsallis<>;
    using shannon = mox::entropy::shannon;

    using broad = entropy_broadcast<>;
    check_experts<bank<12, 9, 6, spec<3>(6), broad, softmax, soft>>("dynmole-tsallis", "balance");
    check_experts<bank<12, 9, 6, spec<3>(6), broad, softmax, mean_entropy<tsallis, unit>>>("dynmole-tsallis",
                                                                                           "entropy");
    using narrow = entropy_broadcast<shannon, coefficient{0.9}, coefficient{0.95}, 1>;
    check_experts<bank<10, 8, 6, spec<2>(4), narrow, softmax, soft>>("dynmole-shannon", "balance");
    check_experts<bank<10, 8, 6, spec<2>(4), narrow, softmax, mean_entropy<shannon, unit>>>("dynmole-shannon",
                                                                                            "entropy");
    using never = entropy_broadcast<tsallis, coefficient{1.0}>;
    check_experts<bank<11, 7, 4, spec<2>(2), never, softmax, soft>>("dynmole-nobroadcast", "balance");
    check_experts<bank<11, 7, 4, spec<2>(2), never, softmax, mean_entropy<tsallis, unit>>>(
        "dynmole-nobroadcast", "entropy");
}

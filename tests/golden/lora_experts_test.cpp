// Low-rank experts against the authors' code.

#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"

using mox::index_t;
using mox_test::adapter_case;
using mox_test::exact;
using mox_test::nothing;
using mox_test::rounded;
using mox_test::spec;
using mox_test::unread;

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
    for (const std::string name : {"mola-basic", "mola-ties", "mola-idle"}) CHECK(unread(name) == nothing);
}

TEST_CASE("golden: llava-mole", "[golden][lora]") {
    using mox::gate::one;
    using mox::route::top_k;
    using counts = mox::balance::counts<unit>;
    check_experts<bank<12, 9, 3, spec<4>(2), top_k<1>, one, counts>>("llavamole-hard", "balance_sum");
    check_experts<bank<12, 9, 3, spec<4>(2), top_k<1>, one, load>>("llavamole-hard", "balance_switch");
    check_experts<bank<10, 8, 4, spec<2>(4), top_k<1>, one, counts>>("llavamole-idle", "balance_sum");
    check_experts<bank<10, 8, 4, spec<2>(4), top_k<1>, one, load>>("llavamole-idle", "balance_switch");
    for (const std::string name : {"llavamole-hard", "llavamole-idle"}) CHECK(unread(name) == nothing);
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
    for (const std::string name : {"loramoe-basic", "loramoe-delta0"}) CHECK(unread(name) == nothing);
}

namespace {

// The top-3 choices, and the share of them that each expert has.
template <class Net>
void check_shares(const std::string& name) {
    adapter_case<Net, double> r(name);
    r.forward();
    const mox::routing_record& log = r.tape.routing()[0];
    std::vector<double> share;
    for (index_t e = 0; e < log.experts; ++e)
        share.push_back(static_cast<double>(log.counts[e]) / static_cast<double>(log.rows * log.slots));
    CHECK(r.choice_error() == 0);
    CHECK(mox_test::distance(share, r.file.tensor("out.f_bar").values) < exact);
}

}  // namespace

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
    check_shares<bank<12, 9, 5, spec<3>(6), top_k<3>, renormalised>>("loramixer-soft");
    check_shares<bank<11, 7, 6, spec<2>(4), top_k<3>, renormalised>>("loramixer-top3");
    // Both parts of the loss by themselves.
    constexpr coefficient no{0.0};
    using even = mox::balance::specialisation<3, unit, no>;
    using sure = mox::balance::specialisation<3, no, unit>;
    const auto check = [](auto&& r, const std::string& loss) { CHECK(r.loss_value(loss) < exact); };
    check(adapter_case<bank<12, 9, 5, spec<3>(6), all, softmax, even>, double>("loramixer-soft"), "balance");
    check(adapter_case<bank<12, 9, 5, spec<3>(6), all, softmax, sure>, double>("loramixer-soft"), "entropy");
    check(adapter_case<bank<11, 7, 6, spec<2>(4), top_k<3>, renormalised, even>, double>("loramixer-top3"),
          "balance");
    check(adapter_case<bank<11, 7, 6, spec<2>(4), top_k<3>, renormalised, sure>, double>("loramixer-top3"),
          "entropy");
    for (const std::string name : {"loramixer-soft", "loramixer-top3"}) CHECK(unread(name) == nothing);
}

namespace {

// How undecided each token is, and who therefore uses all experts.
template <class Net, class Entropy>
void check_entropy(const std::string& name, double threshold) {
    adapter_case<Net, double> r(name);
    r.forward();
    const mox::routing_record& log = r.tape.routing()[0];
    const auto router = r.weights.read("router");
    const auto broadcast = r.file.flags("route.broadcast").values;
    std::vector<double> entropies;
    for (index_t t = 0; t < log.rows; ++t) {
        std::vector<double> p(static_cast<std::size_t>(log.experts));
        double sum = 0;
        index_t active = 0;
        for (std::size_t e = 0; e < p.size(); ++e) {
            double logit = 0;
            for (std::size_t i = 0; i < static_cast<std::size_t>(Net::in); ++i)
                logit += r.x[static_cast<std::size_t>(t * Net::in) + i] * router[i * p.size() + e];
            sum += p[e] = std::exp(logit);
            active += log.chosen[t * log.slots + static_cast<index_t>(e)] >= 0 ? 1 : 0;
        }
        for (double& v : p) v /= sum;
        entropies.push_back(Entropy::value(p.data(), log.experts));
        const bool all = broadcast[static_cast<std::size_t>(t)] != 0;
        if (all) CHECK(active == log.experts);
        CHECK((entropies.back() > threshold) == all);
    }
    CHECK(mox_test::distance(entropies, r.file.tensor("out.entropy").values) < exact);
    CHECK(unread(name) == nothing);
}

}  // namespace

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
    check_entropy<bank<12, 9, 6, spec<3>(6), broad, softmax>, tsallis>("dynmole-tsallis", 0.9);
    check_entropy<bank<10, 8, 6, spec<2>(4), narrow, softmax>, shannon>("dynmole-shannon", 0.9);
    check_entropy<bank<11, 7, 4, spec<2>(2), never, softmax>, tsallis>("dynmole-nobroadcast", 1.0);
}

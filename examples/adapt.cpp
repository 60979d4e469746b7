// A byte-level language model, trained on one text and frozen, adapted to two other texts at once: with one
// LoRA, with low-rank experts (MoLA, MixLoRA) and with gated ranks (SMoRA, FlyLoRA), all with about the same
// number of trained parameters. What does each text do to the other? See --help.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mox/mox.hpp>

#include "support/adapt_arguments.hpp"
#include "support/byte_network.hpp"
#include "support/corpus.hpp"
#include "support/debian_texts.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/heat_map.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/stop_flag.hpp"
#include "support/table.hpp"

namespace {

using mox::index_t;
using mox::row_t;
using namespace support::byte_network;

// ---- The networks
// -------------------------------------------------------------------------------------------

using base_network = language_model<mox::repeat<blocks, block<mox::swiglu<width, hidden>>>>;

template <class Attention, class FeedForward>
using adapted_network =
    mox::stack<mox::frozen<mox::embedding<256, width>>,
               mox::repeat<blocks, mox::stack<mox::residual<mox::frozen<mox::rms_norm<width>>, Attention>,
                                              mox::residual<mox::frozen<mox::rms_norm<width>>, FeedForward>>>,
               mox::frozen<mox::rms_norm<width>>, mox::frozen<mox::linear<width, 256>>>;

template <class A>
using adapted_attention = mox::attention<heads, mox::mask::causal, A>;

// The same adapter on all four maps of every block.
template <class A>
using everywhere =
    adapted_network<adapted_attention<A>, mox::adapted_ffn<width, hidden, mox::activation::silu, A>>;

// Ranks for about 184 000 trained parameters each; alpha as in the papers. The balance of experts has the
// coefficient of the authors' code, the biases of the gates move faster than theirs, as there are fewer
// steps.
constexpr mox::adapter_spec rank21{.rank = 21, .alpha = 42}, rank20{.rank = 20, .alpha = 40};
constexpr mox::adapter_spec rank5{.rank = 5, .alpha = 10};
constexpr mox::adapter_spec rank16{.rank = 16, .alpha = 16}, rank32{.rank = 32, .alpha = 64};
using balance = mox::balance::load<mox::coefficient{0.001}>;

using lora = everywhere<mox::with_lora<rank21>>;
using mola = everywhere<mox::with_lora_experts<4, rank5, mox::route::top_k<2>, balance>>;
using mixlora =
    adapted_network<adapted_attention<mox::with_lora<rank20>>,
                    mox::mixlora<width, hidden, mox::activation::silu, 4, mox::mixlora_spec{.adapter = rank5},
                                 mox::route::top_k<2>, balance>>;
using smora = everywhere<mox::with_lora<rank16, mox::rank_gate::sigmoid_top_k<4, 1, mox::coefficient{1e-3}>>>;
using flylora = everywhere<mox::with_lora<rank32, mox::rank_gate::strongest<8>>>;

const std::vector<std::string> names{"lora", "mola", "mixlora", "smora", "flylora"};

// ---- The work
// -----------------------------------------------------------------------------------------------

constexpr std::size_t texts = 3;  // the base's, and the two to adapt to
const std::array<std::string, texts> text_names{"base text", "text 1", "text 2"};

/// Which texts the sequences of a batch come from. One text alone has as many sequences of it as both have.
struct mixture {
    std::string name;
    std::vector<std::size_t> text;
};
const std::vector<mixture> mixtures{{"both", {1, 2, 1, 2}}, {"text 1", {1, 1}}, {"text 2", {2, 2}}};

/// How often a text uses each expert or rank, layer by layer: its share of all choices.
using layer_uses = std::vector<std::vector<double>>;

struct result {
    std::string adapter, trained_on;
    double parameters = 0;              // trained ones
    double gradients = 0, moments = 0;  // bytes
    double seconds_per_step = NAN;
    std::int64_t steps = 0;
    bool complete = false;
    std::array<double, texts> bits{NAN, NAN, NAN};
    std::array<layer_uses, texts> uses;
};

struct job {
    const std::array<support::corpus, texts>& text;
    const support::arguments& arguments;
    const support::stop_flag& stop;
    mox::thread_pool& pool;
    std::int64_t base_steps = 0, steps = 0;
    index_t windows = 0;  // of each validation text
    std::size_t name_width = 0;
};

using clock_type = std::chrono::steady_clock;

double seconds_since(clock_type::time_point start) {
    return std::chrono::duration<double>(clock_type::now() - start).count();
}

/// Trains on windows of the texts that `from` names, one per sequence. Window number i of a text does not
/// depend on the other texts in the batch.
template <class Net>
result fit(mox::params<Net>& weights, const std::string& name, const std::vector<std::size_t>& from,
           std::int64_t steps, double rate, const job& j) {
    const auto count = static_cast<index_t>(from.size());
    const auto batch = mox::batch::equal(count, sequence);
    mox::params<Net> grads;
    mox::tape<Net> tape(j.pool);
    mox::adamw<Net> adam{{.rate = rate}};
    const mox::schedule::warmup_cosine schedule{.warmup = std::max<index_t>(steps / 20, 1), .steps = steps};
    std::vector<row_t> ids(static_cast<std::size_t>(count * sequence)), targets(ids.size());
    std::array<std::uint64_t, texts> drawn{};
    std::vector<double> seconds;

    support::progress progress(name, steps, {.name_width = j.name_width});
    result r;
    double smooth = 0;
    for (std::int64_t step = 0; step < steps && !j.stop; ++step) {
        const auto start = clock_type::now();
        for (index_t s = 0; s < count; ++s) {
            const std::size_t text = from[static_cast<std::size_t>(s)];
            const mox::random_stream numbers(j.arguments.seed, 0x77696e646f77ull + text);
            draw_window(j.text[text].training(), numbers, drawn[text]++, ids.data() + s * sequence,
                        targets.data() + s * sequence);
        }
        const auto logits = mox::forward<Net>(weights, ids, batch, tape);
        const float loss = mox::cross_entropy(logits, targets, tape.output_grad(), tape.exec());
        mox::backward<Net>(weights, tape, grads);
        mox::clip_by_global_norm(grads, 1.0, tape.exec());
        adam.step(weights, grads, schedule(step), tape.exec());
        mox::update_selection_bias(weights, tape);
        seconds.push_back(seconds_since(start));
        ++r.steps;
        const double bits = static_cast<double>(loss) / std::numbers::ln2;
        if (!std::isfinite(bits)) {
            progress.say(name + ": the loss is not finite any more; it stops here");
            break;
        }
        smooth = step == 0 ? bits : 0.95 * smooth + 0.05 * bits;
        progress.update(r.steps, smooth, static_cast<double>(r.steps * count * sequence));
    }
    progress.finish();
    r.complete = r.steps == steps;
    if (!seconds.empty()) {
        const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
        std::nth_element(seconds.begin(), middle, seconds.end());
        r.seconds_per_step = *middle;
    }
    r.parameters = static_cast<double>(mox::params<Net>::trained_count());
    r.gradients = static_cast<double>(grads.flat().size_bytes());
    r.moments = static_cast<double>(adam.bytes());
    return r;
}

/// Bits per byte of every text, and what its bytes chose.
template <class Net>
void look_at(const mox::params<Net>& weights, const job& j, result& r) {
    mox::tape<Net> tape(j.pool);
    for (std::size_t text = 0; text < texts; ++text) {
        layer_uses& uses = r.uses[text];
        uses.clear();
        const auto count_choices = [&] {
            const auto records = tape.routing();
            uses.resize(records.size());
            for (std::size_t l = 0; l < records.size(); ++l) {
                uses[l].resize(static_cast<std::size_t>(records[l].experts));
                for (std::size_t e = 0; e < uses[l].size(); ++e)
                    uses[l][e] += static_cast<double>(records[l].counts[e]);
            }
        };
        r.bits[text] = validate<Net>(weights, tape, j.text[text].validation(), j.windows, count_choices);
        for (std::vector<double>& layer : uses) {
            double sum = 0;
            for (const double n : layer) sum += n;
            for (double& n : layer) n /= sum;
        }
    }
}

/// Four windows of the validation texts to adapt to.
std::vector<row_t> passage(const job& j) {
    std::vector<row_t> ids(static_cast<std::size_t>(sequences * sequence)), unused(ids.size());
    for (index_t s = 0; s < sequences; ++s) {
        const auto text = j.text[static_cast<std::size_t>(1 + s % 2)].validation();
        const std::size_t room = text.size() - static_cast<std::size_t>(sequence) - 1;
        read_window(text, room * static_cast<std::size_t>(s / 2) / 2, ids.data() + s * sequence,
                    unused.data() + s * sequence);
    }
    return ids;
}

/// The fastest of some forward passes, and the logits.
template <class Net>
double time_forward(const mox::params<Net>& weights, const job& j, std::vector<float>& logits) {
    mox::tape<Net> tape(j.pool);
    const std::vector<row_t> ids = passage(j);
    double best = INFINITY;
    for (int round = 0; round < 9; ++round) {
        const auto start = clock_type::now();
        const auto y = mox::infer<Net>(weights, ids, mox::batch::equal(sequences, sequence), tape);
        best = std::min(best, seconds_since(start));
        logits.clear();
        for (index_t t = 0; t < y.rows; ++t) logits.insert(logits.end(), y.row(t), y.row(t) + y.cols);
    }
    return best;
}

/// Merges the adapter into a copy of the base and says how well both agree.
template <class Net>
std::string merge_and_compare(const mox::params<base_network>& base, const mox::params<Net>& weights,
                              const job& j) {
    mox::params<base_network> merged = base;
    const index_t maps = mox::merge(weights, merged);
    std::vector<float> with_adapter, of_merged;
    const double adapter_time = time_forward(weights, j, with_adapter);
    const double merged_time = time_forward(merged, j, of_merged);
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < of_merged.size(); ++i) {
        largest = std::max(largest, std::abs(static_cast<double>(with_adapter[i])));
        difference = std::max(
            difference, std::abs(static_cast<double>(with_adapter[i]) - static_cast<double>(of_merged[i])));
    }
    std::array<char, 400> line{};
    std::snprintf(
        line.data(), line.size(),
        "LoRA, trained on both, merged into %lld maps of the base network: the logits differ by at most "
        "%.1e\n(the largest is %.1f); a forward pass of %lld bytes takes %.1f ms instead of %.1f ms.\n",
        static_cast<long long>(maps), difference, largest, static_cast<long long>(sequences * sequence),
        merged_time * 1e3, adapter_time * 1e3);
    return line.data();
}

struct findings {
    std::vector<result> results;  // the base network first
    std::string merging;
};

template <class Net>
void adapt(const std::string& name, double rate, const mox::params<base_network>& base, const job& j,
           findings& found) {
    for (const mixture& m : mixtures) {
        if (j.stop) return;
        mox::params<Net> weights{mox::init::standard, j.arguments.seed + 1};
        const auto report = mox::copy_matching(base, weights);
        if (!report.unused.empty())
            throw std::logic_error("the adapted network lost '" + report.unused[0] + "'");
        result r = fit<Net>(weights, name + ", " + m.name, m.text, j.steps, rate, j);
        r.adapter = name;
        r.trained_on = m.name;
        look_at<Net>(weights, j, r);
        found.results.push_back(std::move(r));
        if constexpr (std::is_same_v<Net, lora>) {
            if (m.text.size() > 2) found.merging = merge_and_compare(base, weights, j);
        }
    }
}

// Each rate is the best of 2e-3, 4e-3, 8e-3 and 16e-3 for its method, by the mean over both texts.
void adapt_by_name(const std::string& name, const mox::params<base_network>& base, const job& j,
                   findings& found) {
    if (name == "lora") return adapt<lora>("LoRA", 8e-3, base, j, found);
    if (name == "mola") return adapt<mola>("MoLA", 8e-3, base, j, found);
    if (name == "mixlora") return adapt<mixlora>("MixLoRA", 8e-3, base, j, found);
    if (name == "smora") return adapt<smora>("SMoRA", 8e-3, base, j, found);
    return adapt<flylora>("FlyLoRA", 16e-3, base, j, found);
}

// ---- Showing it
// -----------------------------------------------------------------------------------------------

/// The share of their choices that two texts have in common: 1 when they use everything equally often.
double in_common(const layer_uses& a, const layer_uses& b) {
    if (a.empty() || a.size() != b.size()) return NAN;
    double sum = 0;
    for (std::size_t l = 0; l < a.size(); ++l) {
        for (std::size_t e = 0; e < a[l].size(); ++e) sum += std::min(a[l][e], b[l][e]);
    }
    return sum / static_cast<double>(a.size());
}

/// Bits that a text loses because the adapter learns the other one, too.
double cost_of_sharing(const std::vector<result>& results, const result& both, std::size_t text) {
    for (const result& r : results) {
        const bool alone = r.adapter == both.adapter && r.trained_on == mixtures[text].name;
        if (alone && r.complete && both.complete) return both.bits[text] - r.bits[text];
    }
    return NAN;
}

support::heat_panel uses_of(const result& r) {
    support::heat_panel panel;
    const bool ranks = r.adapter == "SMoRA" || r.adapter == "FlyLoRA";
    const std::size_t experts = r.uses[0][0].size();
    panel.title = r.adapter;
    panel.columns = ranks ? "rank" : "expert";
    const std::size_t per_block = r.uses[0].size() / static_cast<std::size_t>(blocks);
    panel.note = std::to_string(experts) + (ranks ? " ranks" : " experts") +
                 (per_block == 4 ? " per map" : " per block") + "; text 1 and text 2 have " +
                 support::fixed(100 * in_common(r.uses[1], r.uses[2]), 0) + " % of their choices in common";
    static const std::array<std::string, 4> maps{"queries, keys, values", "attention's output",
                                                 "feed-forward: gate, up", "feed-forward: down"};
    for (std::size_t b = 0; b < static_cast<std::size_t>(blocks); ++b) {
        support::heat_layer layer{"block " + std::to_string(b + 1), {}};
        for (std::size_t m = 0; m < per_block; ++m) {
            support::heat_strip strip{per_block == 4 ? maps[m] : "feed-forward network", {}};
            for (std::size_t text = 0; text < texts; ++text) {
                std::vector<double> row = r.uses[text][b * per_block + m];
                for (double& share : row) share *= static_cast<double>(row.size());
                strip.rows.push_back(std::move(row));
            }
            layer.strips.push_back(std::move(strip));
        }
        panel.layers.push_back(std::move(layer));
    }
    return panel;
}

void show(const findings& found, const job& j) {
    using support::show;
    support::table table(
        {{.title = "adapter", .key = "adapter"},
         {.title = "trained on", .key = "trained_on"},
         {.title = "parameters", .as = show::human, .key = "trained_parameters"},
         {.title = "gradients", .as = show::number, .decimals = 2, .unit = "MB", .key = "gradient_megabytes"},
         {.title = "moments", .as = show::number, .decimals = 2, .unit = "MB", .key = "optimiser_megabytes"},
         {.title = "steps", .as = show::number, .decimals = 0, .key = "steps"},
         {.title = "ms/step", .as = show::number, .key = "milliseconds_per_step"},
         {.title = "base text", .as = show::number, .decimals = 3, .key = "bits_base_text"},
         {.title = "text 1", .as = show::number, .decimals = 3, .key = "bits_text_1"},
         {.title = "text 2", .as = show::number, .decimals = 3, .key = "bits_text_2"},
         {.title = "sharing 1", .as = show::number, .decimals = 3, .key = "sharing_text_1"},
         {.title = "sharing 2", .as = show::number, .decimals = 3, .key = "sharing_text_2"},
         {.title = "in common", .as = show::percent, .decimals = 0, .key = "choices_in_common"}});
    support::heat_map map;
    map.title = "Which experts and ranks each text uses";
    map.caption = {
        "Adapters of one frozen language model, trained on text 1 and text 2 at once. A column is an expert "
        "or a rank, a row is a text.",
        "Base text: " + j.text[0].source + ". Text 1: " + j.text[1].source + ". Text 2: " + j.text[2].source +
            "."};
    map.rows.assign(text_names.begin(), text_names.end());
    map.unit = "share of the text's choices, in multiples of even use";
    for (const result& r : found.results) {
        const bool both = r.trained_on == mixtures[0].name;
        table.add({r.adapter, r.trained_on, r.parameters, r.gradients / 1e6, r.moments / 1e6,
                   static_cast<double>(r.steps), r.seconds_per_step * 1e3, r.bits[0], r.bits[1], r.bits[2],
                   both ? cost_of_sharing(found.results, r, 1) : NAN,
                   both ? cost_of_sharing(found.results, r, 2) : NAN,
                   both ? in_common(r.uses[1], r.uses[2]) : NAN});
        if (both && !r.uses[0].empty()) map.panels.push_back(uses_of(r));
    }
    std::printf("\n%s", table.text().c_str());
    std::printf("base text, text 1, text 2: bits per byte of validation text, lower is better. sharing: bits "
                "a text loses "
                "because\nthe adapter learned the other one, too. in common: share of their choices of "
                "experts or ranks that "
                "text 1 and text 2\nhave in common. moments: memory of the optimiser.\n\n");
    if (!found.merging.empty()) std::printf("%s", found.merging.c_str());
    std::printf("MoLA, MixLoRA, SMoRA and FlyLoRA cannot be merged: which experts or ranks count depends on "
                "the byte, so what\n"
                "they add to a map is not one matrix. mox::merge of them does not compile.\n");
    const auto& out = j.arguments.out;
    table.write_csv(out / "adapt_table.csv");
    support::write_heat_map(out / "adapters.svg", map);
    std::printf("\nwritten: %s, %s\n", (out / "adapt_table.csv").string().c_str(),
                (out / "adapters.svg").string().c_str());
}

int run(int argc, char** argv) {
    const support::arguments arguments = support::parse_adapt_arguments(
        std::vector<std::string_view>(argv + std::min(argc, 1), argv + argc), names);
    if (arguments.help) {
        std::printf("%s", support::adapt_help(names).c_str());
        return 0;
    }
    const support::corpus_options options{.minimum_bytes = 20'000,
                                          .minimum_validation = static_cast<std::size_t>(4 * sequence)};
    const auto file = [&](std::size_t i) {
        return support::read_files(std::span(&arguments.files[i], 1), options);
    };
    const std::array<support::corpus, texts> text =
        arguments.files.empty()
            ? std::array{support::read_headers(MOX_EXAMPLE_TEXT, "the installed Eigen headers", options),
                         support::read_licences(options), support::read_perl(options)}
            : std::array{file(0), file(1), file(2)};
    support::prepare_folder(arguments.out);
    mox::thread_pool pool(arguments.threads);
    const support::stop_flag stop;
    job j{text, arguments, stop, pool};
    j.base_steps = arguments.steps.value_or(arguments.quick ? 60 : 400);
    j.steps = std::max<std::int64_t>(1, j.base_steps / 2);
    j.windows = arguments.quick ? 8 : 32;
    const std::vector<std::string>& chosen = arguments.networks.empty() ? names : arguments.networks;
    j.name_width = std::string_view("FlyLoRA, text 1").size();

    for (std::size_t i = 0; i < texts; ++i) {
        std::printf("%s: %s\n", text_names[i].c_str(), text[i].describe().c_str());
    }
    std::printf("%lld steps of %lld bytes for the base network, %lld for each adapter, %lld threads\n",
                static_cast<long long>(j.base_steps), static_cast<long long>(sequences * sequence),
                static_cast<long long>(j.steps), static_cast<long long>(pool.concurrency()));
    std::fflush(stdout);

    findings found;
    mox::params<base_network> base{mox::init::standard, arguments.seed};
    result before = fit<base_network>(base, "base network", {0, 0, 0, 0}, j.base_steps, 4e-3, j);
    before.adapter = "none";
    before.trained_on = text_names[0];
    look_at<base_network>(base, j, before);
    found.results.push_back(std::move(before));
    for (const auto& name : chosen) {
        if (!stop) adapt_by_name(name, base, j, found);
    }
    if (stop) std::printf("\nstopped; this is what there is so far\n");
    show(found, j);
    return stop ? 128 + stop.signal() : 0;
}

}  // namespace

int main(int argc, char** argv) {
    return support::run_program("adapt", [&] { return run(argc, argv); });
}

// Byte-level language models that differ in one line of their type, trained on a real text at equal training
// FLOPs: dense, mixture of experts, null experts, mixture of depths, and both. See --help.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "support/arguments.hpp"
#include "support/byte_network.hpp"
#include "support/chart.hpp"
#include "support/corpus.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/routing_page.hpp"
#include "support/stop_flag.hpp"
#include "support/table.hpp"

namespace {

using mox::index_t;
using mox::row_t;

// ---- The networks
// -------------------------------------------------------------------------------------------

using namespace support::byte_network;

// The tokens a router leaves out of every other block.
template <class Block>
using skipping = mox::depth<Block, mox::route::learned, mox::keep_permille<500>,
                            mox::sampling::auxiliary_loss<mox::coefficient{0.02}>>;

using expert_bank = mox::experts<8, mox::swiglu<width, hidden / 2>>;

using dense_ffn = mox::swiglu<width, hidden>;
using moe_ffn = mox::moe<expert_bank, mox::route::top_k<2>, mox::balance::load<>>;
using null_ffn = mox::moe<expert_bank, mox::route::top_k<3>, mox::null_experts<4>, mox::balance::load<>>;

using dense = language_model<mox::repeat<blocks, block<dense_ffn>>>;
using experts = language_model<mox::repeat<blocks, block<moe_ffn>>>;
using null_experts = language_model<mox::repeat<blocks, block<null_ffn>>>;
using depths =
    language_model<mox::repeat<blocks / 2, mox::stack<block<dense_ffn>, skipping<block<dense_ffn>>>>>;
using both = language_model<mox::repeat<blocks / 2, mox::stack<block<moe_ffn>, skipping<block<moe_ffn>>>>>;

const std::vector<std::string> names{"dense", "experts", "null-experts", "depths", "depths+experts"};

// ---- What one network's training gives
// ------------------------------------------------------------------------

struct result {
    std::string name;
    mox::network_summary summary;
    double training_flops_per_token = 0;
    std::int64_t steps = 0;
    double bits_per_byte = NAN;
    double training_speed = 0, generation_speed = 0;  // bytes per second
    double skipped = NAN;                             // share of (byte, block) pairs left out
    double null_share = NAN;                          // share of expert choices that cost nothing
    double balance = NAN;                             // entropy of the experts' load, 1 is even
    std::string sample;
    support::curve curve;
    support::routed_network routing;
};

struct job {
    const support::corpus& text;
    const support::arguments& arguments;
    const support::stop_flag& stop;
    mox::thread_pool& pool;
    std::int64_t dense_steps = 0;
    std::size_t name_width = 0;
};

using clock_type = std::chrono::steady_clock;

double seconds_since(clock_type::time_point start) {
    return std::chrono::duration<double>(clock_type::now() - start).count();
}

// ---- Evaluation
// -----------------------------------------------------------------------------------------------

/// How the routers treated a passage: for the table, and byte by byte for the page.
template <class Net>
void look_at_routing(const mox::params<Net>& weights, mox::tape<Net>& tape,
                     std::span<const unsigned char> text, result& r) {
    const index_t passage = std::min<index_t>(2 * sequence, static_cast<index_t>(text.size()));
    const auto bytes = text.first(static_cast<std::size_t>(passage));
    const std::vector<row_t> ids(bytes.begin(), bytes.end());
    const auto batch =
        mox::batch::ragged({std::min(passage, sequence), passage - std::min(passage, sequence)});
    mox::infer<Net>(weights, ids, batch, tape);

    r.routing.name = r.name;
    r.routing.text.assign(bytes.begin(), bytes.end());
    r.routing.blocks = static_cast<int>(blocks);
    using kind = mox::routing_record::kind_t;
    bool has_depth = false;
    for (const auto& record : tape.routing()) has_depth = has_depth || record.kind == kind::depth;
    int plain = 0, sparse = 0, expert_layers = 0;
    index_t skipped = 0, nulls = 0, slots = 0;
    double entropy = 0;
    for (const auto& record : tape.routing()) {
        support::routed_layer layer;
        const auto row_token = [&](index_t row) {
            return static_cast<std::size_t>(record.token ? record.token[row] : row);
        };
        if (record.kind == kind::depth) {
            layer.what = support::routed_layer::kind::depth;
            layer.label = "block " + std::to_string(2 * ++sparse);
            layer.processed.assign(ids.size(), false);
            for (index_t i = 0; i < record.selected_count; ++i) {
                layer.processed[row_token(record.selected[i])] = true;
            }
            skipped += record.rows - record.selected_count;
        } else {
            const bool inside = record.token != nullptr;
            const int number = inside ? 2 * sparse : has_depth ? 2 * plain + 1 : plain + 1;
            plain += inside ? 0 : 1;
            layer.label = "block " + std::to_string(number);
            layer.experts = static_cast<int>(record.experts + record.nulls);
            layer.null_experts = static_cast<int>(record.nulls);
            layer.uses.resize(ids.size());
            for (index_t row = 0; row < record.rows; ++row) {
                for (index_t s = 0; s < record.slots; ++s) {
                    layer.uses[row_token(row)].push_back(
                        {static_cast<int>(record.chosen[row * record.slots + s]),
                         static_cast<float>(record.gate(row, s))});
                }
            }
            double total = 0, sum = 0;
            for (index_t e = 0; e < record.experts; ++e) total += static_cast<double>(record.counts[e]);
            for (index_t e = 0; e < record.experts && total > 0; ++e) {
                const double share = static_cast<double>(record.counts[e]) / total;
                if (share > 0) sum -= share * std::log(share);
            }
            entropy += sum / std::log(static_cast<double>(record.experts));
            ++expert_layers;
            slots += record.rows * record.slots;
            for (index_t e = record.experts; e < record.experts + record.nulls; ++e)
                nulls += record.counts[e];
        }
        r.routing.layers.push_back(std::move(layer));
    }
    if (has_depth) r.skipped = static_cast<double>(skipped) / static_cast<double>(passage * blocks);
    if (nulls > 0) r.null_share = static_cast<double>(nulls) / static_cast<double>(slots);
    if (expert_layers > 0) r.balance = entropy / expert_layers;
}

/// Samples text behind the beginning of the validation text, byte by byte. One byte at a time is too little
/// work to share between threads. The same text is written a few times, and the fastest counts.
template <class Net>
void generate(const mox::params<Net>& weights, const job& j, result& r) {
    const auto text = j.text.validation();
    const index_t prompt = 64, total = sequence;
    mox::stream<Net> stream(total);
    const std::vector<row_t> ids(text.begin(), text.begin() + prompt);
    const mox::random_stream numbers(j.arguments.seed, 0x73616d706c65ull);
    constexpr double temperature = 0.7;
    for (int round = 0; round < 5; ++round) {
        stream.reset();
        auto logits = mox::decode<Net>(weights, ids, stream);
        r.sample.assign(text.begin(), text.begin() + prompt);
        r.sample += "\u2502";  // where the network takes over
        const auto start = clock_type::now();
        for (index_t i = prompt; i < total; ++i) {
            const float* row = logits.row(logits.rows - 1);
            const double largest = static_cast<double>(*std::max_element(row, row + 256));
            double weight[256], sum = 0;
            for (int c = 0; c < 256; ++c) {
                weight[c] = std::exp((static_cast<double>(row[c]) - largest) / temperature);
                sum += weight[c];
            }
            double pick = numbers.uniform(static_cast<std::uint64_t>(i)) * sum;
            row_t next = 0;
            while (next < 255 && pick >= weight[next]) pick -= weight[next++];
            r.sample += static_cast<char>(next);
            const row_t one[] = {next};
            logits = mox::decode<Net>(weights, one, stream);
        }
        r.generation_speed =
            std::max(r.generation_speed, static_cast<double>(total - prompt) / seconds_since(start));
    }
}

// ---- Training
// -------------------------------------------------------------------------------------------------

template <class Net>
result train(const std::string& name, const job& j) {
    constexpr double context = (sequence + 1) / 2.0;
    constexpr double tokens_per_step = sequence * sequences;
    result r;
    r.name = name;
    r.curve.name = name;
    r.summary = mox::describe<Net>(context);
    r.training_flops_per_token = r.summary.training_flops;
    // Equal training FLOPs: cheaper networks take more steps.
    const double dense_flops = mox::describe<dense>(context).training_flops;
    const auto total = std::max<std::int64_t>(
        1, std::llround(static_cast<double>(j.dense_steps) * dense_flops / r.training_flops_per_token));

    mox::params<Net> weights{mox::init::standard, j.arguments.seed}, grads;
    mox::tape<Net> tape(j.pool), evaluation(j.pool);
    mox::adamw<Net> adam{{.rate = 4e-3}};
    const mox::schedule::warmup_cosine schedule{.warmup = std::max<index_t>(total / 20, 1), .steps = total};
    const auto batch = mox::batch::equal(sequences, sequence);
    const auto text = j.text.training();
    const mox::random_stream numbers(j.arguments.seed, 0x77696e646f77ull);
    std::vector<row_t> ids(static_cast<std::size_t>(sequences * sequence)), targets(ids.size());

    const index_t windows = j.arguments.quick ? 16 : 48;
    double training_seconds = 0;
    const auto evaluate = [&] {
        const double bits = validate<Net>(weights, evaluation, j.text.validation(), windows);
        r.curve.points.push_back({training_seconds,
                                  static_cast<double>(r.steps) * tokens_per_step * r.training_flops_per_token,
                                  bits});
        r.bits_per_byte = bits;
    };
    const std::int64_t every = std::max<std::int64_t>(1, total / (j.arguments.quick ? 6 : 12));

    support::progress progress(name, total, {.name_width = j.name_width});
    double smooth = 0;
    evaluate();
    for (std::int64_t step = 0; step < total && !j.stop; ++step) {
        const auto start = clock_type::now();
        for (index_t s = 0; s < sequences; ++s) {
            draw_window(text, numbers, static_cast<std::uint64_t>(step * sequences + s),
                        ids.data() + s * sequence, targets.data() + s * sequence);
        }
        const auto logits = mox::forward<Net>(weights, ids, batch, tape);
        const float loss = mox::cross_entropy(logits, targets, tape.output_grad(), tape.exec());
        mox::backward<Net>(weights, tape, grads);
        mox::clip_by_global_norm(grads, 1.0, tape.exec());
        adam.step(weights, grads, schedule(step), tape.exec());
        training_seconds += seconds_since(start);
        ++r.steps;
        const double bits = static_cast<double>(loss) / std::numbers::ln2;
        if (!std::isfinite(bits)) {
            progress.say(name + ": the loss is not finite any more; this network stops here");
            break;
        }
        smooth = step == 0 ? bits : 0.95 * smooth + 0.05 * bits;
        progress.update(r.steps, smooth, static_cast<double>(r.steps) * tokens_per_step);
        if (r.steps % every == 0 && r.steps < total) evaluate();
    }
    evaluate();
    progress.finish();
    r.training_speed =
        training_seconds > 0 ? static_cast<double>(r.steps) * tokens_per_step / training_seconds : 0;
    look_at_routing<Net>(weights, evaluation, j.text.validation(), r);
    generate<Net>(weights, j, r);
    return r;
}

result train_by_name(const std::string& name, const job& j) {
    if (name == "dense") return train<dense>(name, j);
    if (name == "experts") return train<experts>(name, j);
    if (name == "null-experts") return train<null_experts>(name, j);
    if (name == "depths") return train<depths>(name, j);
    return train<both>(name, j);
}

// ---- Showing it
// -----------------------------------------------------------------------------------------------

void show(const std::vector<result>& results, const job& j) {
    using support::show;
    support::table table(
        {{.title = "network", .key = "network"},
         {.title = "parameters", .as = show::human, .key = "parameters"},
         {.title = "active", .as = show::human, .key = "active_parameters"},
         {.title = "FLOPs/byte", .as = show::human, .key = "forward_flops_per_byte"},
         {.title = "steps", .as = show::number, .decimals = 0, .key = "steps"},
         {.title = "bits/byte", .as = show::number, .decimals = 3, .key = "validation_bits_per_byte"},
         {.title = "training", .as = show::human, .unit = "B/s", .key = "training_bytes_per_second"},
         {.title = "generation", .as = show::human, .unit = "B/s", .key = "generation_bytes_per_second"},
         {.title = "skipped", .as = show::percent, .key = "share_of_blocks_skipped"},
         {.title = "null", .as = show::percent, .key = "share_of_choices_null"},
         {.title = "balance", .as = show::number, .decimals = 2, .key = "expert_balance"}});
    support::chart chart;
    chart.title = "Language models at equal training FLOPs";
    chart.caption = "Validation loss while training on " + j.text.source +
                    "; lower is better. All networks get the same number of floating point operations.";
    support::routing_page page;
    page.note = "The text is the beginning of the validation part of " + j.text.source + ".";
    for (const result& r : results) {
        table.add({r.name, static_cast<double>(r.summary.parameters), r.summary.active_parameters,
                   r.summary.forward_flops, static_cast<double>(r.steps), r.bits_per_byte, r.training_speed,
                   r.generation_speed, r.skipped, r.null_share, r.balance});
        chart.curves.push_back(r.curve);
        page.networks.push_back(r.routing);
    }
    for (const result& r : results) {
        std::printf("\n--- %s continues the text behind the bar ---\n%s\n", r.name.c_str(),
                    support::printable_lines(r.sample).c_str());
    }
    std::printf("\n%s", table.text().c_str());
    std::printf(
        "bits/byte: validation, lower is better. skipped: byte-block pairs left out. null: expert choices "
        "that cost nothing.\nbalance: evenness of the experts' load, 1.00 is even.\n");
    const auto& out = j.arguments.out;
    table.write_csv(out / "table.csv");
    support::write_chart(out / "language_model.svg", chart);
    support::write_routing_page(out / "routing.html", page);
    std::printf("\nwritten: %s, %s, %s\n", (out / "table.csv").string().c_str(),
                (out / "language_model.svg").string().c_str(), (out / "routing.html").string().c_str());
}

int run(int argc, char** argv) {
    const support::arguments arguments = support::parse_arguments(argc, argv, names);
    if (arguments.help) {
        std::printf("%s", support::help_text(names).c_str());
        return 0;
    }
    const support::corpus_options options{.minimum_bytes = 20'000,
                                          .minimum_validation = static_cast<std::size_t>(4 * sequence)};
    const support::corpus text =
        arguments.files.empty()
            ? support::read_headers(MOX_EXAMPLE_TEXT, "the installed Eigen headers", options)
            : support::read_files(arguments.files, options);
    support::prepare_folder(arguments.out);
    mox::thread_pool pool(arguments.threads);
    const support::stop_flag stop;
    job j{text, arguments, stop, pool, arguments.steps.value_or(arguments.quick ? 60 : 500), 0};
    const std::vector<std::string>& chosen = arguments.networks.empty() ? names : arguments.networks;
    for (const auto& n : chosen) j.name_width = std::max(j.name_width, n.size());

    std::printf("%s\n", text.describe().c_str());
    std::printf(
        "%zu networks, %lld steps of %lld bytes for dense and the same FLOPs for each, %lld threads\n",
        chosen.size(), static_cast<long long>(j.dense_steps), static_cast<long long>(sequence * sequences),
        static_cast<long long>(pool.concurrency()));
    std::fflush(stdout);
    std::vector<result> results;
    for (const auto& name : chosen) {
        if (stop) break;
        results.push_back(train_by_name(name, j));
    }
    if (stop) std::printf("\nstopped; this is what there is so far\n");
    show(results, j);
    return stop ? 128 + stop.signal() : 0;
}

}  // namespace

int main(int argc, char** argv) {
    return support::run_program("language_model", [&] { return run(argc, argv); });
}

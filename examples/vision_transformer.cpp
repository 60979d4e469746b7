// Small vision transformers on digits and on cluttered digits: dense, mixture of depths with a learned and
// with a random router, and A-MoD, routed by received attention; from scratch and adapted from the dense
// network. See --help.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "support/accuracy_chart.hpp"
#include "support/digits.hpp"
#include "support/png_picture.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/stop_flag.hpp"
#include "support/table.hpp"
#include "support/vision_arguments.hpp"

namespace {

using mox::index_t;
using mox::row_t;
using support::task;
using clock_type = std::chrono::steady_clock;

// ---- The networks

// A token sees a window around its patch, so that strokes on the borders are whole.
constexpr index_t window = 16, width = 64, hidden = 128, classes = 10, most_tokens = 50;
constexpr mox::attention_spec heads{.width = width, .heads = 4, .rotary = false};

template <index_t Hidden>
using block = mox::stack<
    mox::residual<mox::layer_norm<width>, mox::attention<heads, mox::mask::full>>,
    mox::residual<mox::layer_norm<width>, mox::mlp<width, Hidden, mox::activation::gelu, mox::bias::with>>>;

// An empty first row becomes the class token by its learned position.
template <class Body>
using transformer = mox::stack<mox::linear<window * window, width, mox::bias::with>,
                               mox::learned_positions<most_tokens, width>, Body, mox::layer_norm<width>,
                               mox::linear<width, classes, mox::bias::with>>;

// Every other block sees only some of the tokens, and always the class token.
template <class Score, index_t Permille>
using skipping = transformer<mox::repeat<
    2, mox::stack<block<hidden>, mox::depth<block<hidden>, Score, mox::keep_permille<Permille>,
                                            mox::always_first<1>, mox::sampling::whole_sequence>>>>;

using dense = transformer<mox::repeat<2, mox::stack<block<hidden>, block<hidden>>>>;
// About as many operations as the networks above at capacity 0.5 and 0.125.
using dense_3 = transformer<mox::repeat<3, block<hidden - 8>>>;
using dense_2 = transformer<mox::repeat<2, block<hidden + 32>>>;

const std::vector<std::string> names{
    "dense",      "dense-0.5",         "dense-0.125",       "mod-0.5",   "random-0.5",
    "amod-0.5",   "mod-adapted-0.5",   "amod-adapted-0.5",  "mod-0.125", "random-0.125",
    "amod-0.125", "mod-adapted-0.125", "amod-adapted-0.125"};

// ---- Data

struct job {
    const support::vision_arguments& arguments;
    const support::stop_flag& stop;
    mox::thread_pool& pool;
    support::image_set training, test;
    std::size_t name_width = 0;
};

double seconds_since(clock_type::time_point start) {
    return std::chrono::duration<double>(clock_type::now() - start).count();
}

/// Pixels from one token to the next: 4 x 4 or 7 x 7 patches.
index_t patch_of(task t) { return t == task::digits ? 7 : 8; }

index_t tokens_of(task t) {
    const auto across = static_cast<index_t>(support::canvas_side(t)) / patch_of(t);
    return 1 + across * across;
}

/// A painted canvas as rows: one empty, then the windows of the patches line by line.
void cut_patches(task t, const float* canvas, float* rows) {
    const auto side = static_cast<index_t>(support::canvas_side(t)), patch = patch_of(t),
               across = side / patch;
    const index_t margin = (window - patch) / 2;
    std::fill_n(rows, (1 + across * across) * window * window, 0.0f);
    for (index_t p = 0; p < across * across; ++p) {
        float* to = rows + (1 + p) * window * window;
        const index_t y0 = p / across * patch - margin, x0 = p % across * patch - margin;
        for (index_t y = std::max<index_t>(0, -y0); y < window && y0 + y < side; ++y) {
            for (index_t x = std::max<index_t>(0, -x0); x < window && x0 + x < side; ++x) {
                to[y * window + x] = canvas[(y0 + y) * side + x0 + x];
            }
        }
    }
}

/// Examples as the rows and targets of one step; only the class token is asked.
struct images {
    std::vector<float> rows;
    std::vector<row_t> targets, labels;
    index_t count = 0, tokens = 0;

    images(task t, index_t n) : count(n), tokens(tokens_of(t)) {
        rows.resize(static_cast<std::size_t>(n * tokens * window * window));
        targets.assign(static_cast<std::size_t>(n * tokens), mox::ignored_target);
        labels.resize(static_cast<std::size_t>(n));
    }
    void paint(task t, const support::image_set& set, index_t slot, std::size_t i, std::uint64_t seed,
               std::uint64_t draw) {
        std::vector<float>& canvas = canvas_;
        canvas.resize(support::canvas_side(t) * support::canvas_side(t));
        support::paint(t, set, i, seed, draw, canvas.data());
        cut_patches(t, canvas.data(), rows.data() + slot * tokens * window * window);
        labels[static_cast<std::size_t>(slot)] = set.labels[i];
        targets[static_cast<std::size_t>(slot * tokens)] = set.labels[i];
    }
    mox::matrix_view<const float> view(index_t first, index_t n) const {
        return {rows.data() + first * tokens * window * window, n * tokens, window * window};
    }

private:
    std::vector<float> canvas_;
};

images test_images(task t, const support::image_set& set) {
    images all(t, static_cast<index_t>(set.count()));
    for (std::size_t i = 0; i < set.count(); ++i) {
        all.paint(t, set, static_cast<index_t>(i), i, /*seed*/ 0x74657374, i);
    }
    return all;
}

// ---- Training one network

constexpr index_t images_per_step = 40;

template <class Net>
double accuracy(const mox::params<Net>& weights, mox::tape<Net>& tape, const images& test) {
    index_t right = 0;
    for (index_t first = 0; first < test.count; first += images_per_step) {
        const index_t n = std::min(images_per_step, test.count - first);
        const auto logits =
            mox::infer<Net>(weights, test.view(first, n), mox::batch::equal(n, test.tokens), tape);
        for (index_t i = 0; i < n; ++i) {
            const float* row = logits.row(i * test.tokens);
            const auto best = static_cast<row_t>(std::max_element(row, row + classes) - row);
            right += best == test.labels[static_cast<std::size_t>(first + i)] ? 1 : 0;
        }
    }
    return static_cast<double>(right) / static_cast<double>(test.count);
}

struct trained {
    std::vector<double> accuracy;               ///< after each epoch; first: before training
    std::function<double()> seconds_per_image;  ///< one measurement on one thread
    std::function<std::vector<std::vector<bool>>(index_t)> processed;  ///< image -> [layer][token]
};

/// Trains from `weights` on; each epoch paints every training image anew.
template <class Net>
trained train(const std::string& name, task t, const job& j, const images& test, std::uint64_t seed,
              double rate, int epochs, std::shared_ptr<mox::params<Net>> weights) {
    trained result;
    mox::params<Net> grads;
    mox::tape<Net> tape(j.pool);
    tape.set_seed(seed);
    mox::adamw<Net> adam{{.rate = rate}};
    const auto count = static_cast<index_t>(j.training.count());
    const index_t per_epoch = std::max<index_t>(1, count / images_per_step);
    const index_t total = per_epoch * epochs;
    const mox::schedule::warmup_cosine schedule{.warmup = std::max<index_t>(total / 20, 1), .steps = total};
    const auto batch = mox::batch::equal(images_per_step, test.tokens);
    images step_images(t, images_per_step);
    std::vector<std::size_t> order(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    const mox::random_stream shuffle(seed, 0x6f72646572);

    support::progress progress(name, total, {.name_width = j.name_width});
    result.accuracy.push_back(accuracy<Net>(*weights, tape, test));
    double smooth = 0;
    for (index_t step = 0; step < total && !j.stop; ++step) {
        const auto epoch = static_cast<std::uint64_t>(step / per_epoch);
        const index_t at = step % per_epoch;
        if (at == 0) {
            for (std::size_t i = order.size(); i > 1; --i) {
                std::swap(order[i - 1], order[shuffle.bits(epoch * order.size() + i) % i]);
            }
        }
        for (index_t i = 0; i < images_per_step; ++i) {
            const std::size_t which = order[static_cast<std::size_t>((at * images_per_step + i) % count)];
            step_images.paint(t, j.training, i, which, seed + 1000, epoch << 32 | which);
        }
        const auto logits = mox::forward<Net>(*weights, step_images.view(0, images_per_step), batch, tape);
        const double loss = static_cast<double>(
            mox::cross_entropy(logits, step_images.targets, tape.output_grad(), tape.exec()));
        mox::backward<Net>(*weights, tape, grads);
        mox::clip_by_global_norm(grads, 1.0, tape.exec());
        adam.step(*weights, grads, schedule(step), tape.exec());
        smooth = step == 0 ? loss : 0.95 * smooth + 0.05 * loss;
        progress.update(step + 1, smooth, static_cast<double>((step + 1) * images_per_step * test.tokens));
        if (at + 1 == per_epoch) result.accuracy.push_back(accuracy<Net>(*weights, tape, test));
    }
    progress.finish();

    // Kept for later, when all networks are measured in turns.
    auto alone = std::make_shared<mox::tape<Net>>();
    result.seconds_per_image = [weights, alone, &test] {
        const index_t n = std::min(images_per_step, test.count);
        const auto rows = mox::batch::equal(n, test.tokens);
        const auto start = clock_type::now();
        mox::infer<Net>(*weights, test.view(0, n), rows, *alone);
        return seconds_since(start) / static_cast<double>(n);
    };
    result.processed = [weights, alone, &test](index_t image) {
        mox::infer<Net>(*weights, test.view(image, 1), mox::batch::equal(1, test.tokens), *alone);
        std::vector<std::vector<bool>> layers;
        for (const mox::routing_record& r : alone->routing()) {
            auto& layer = layers.emplace_back(static_cast<std::size_t>(test.tokens), false);
            for (index_t i = 0; i < r.selected_count; ++i) {
                layer[static_cast<std::size_t>(r.selected[i])] = true;
            }
        }
        return layers;
    };
    return result;
}

// ---- The systems that are compared

struct system_result {
    std::string name;
    std::size_t style = 0;
    double capacity = 1;
    bool adapted = false;
    double flops = 0, seconds = NAN;
    std::vector<std::vector<double>> accuracy;  ///< [seed][epoch]
    trained first;                              ///< of the first seed, for time and pictures
};

struct experiment {
    task what;
    images test;
    std::vector<system_result> systems;
};

template <class Net>
void add(experiment& e, const std::string& name, std::size_t style, double capacity, bool adapted,
         std::uint64_t seed, const job& j, std::shared_ptr<mox::params<dense>> start = nullptr,
         std::shared_ptr<mox::params<Net>> weights = nullptr) {
    const auto& wanted = j.arguments.networks;
    if (j.stop || (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end())) return;
    if (!weights) weights = std::make_shared<mox::params<Net>>(mox::init::standard, seed);
    if (start) mox::copy_matching(*start, *weights);
    auto found = std::find_if(e.systems.begin(), e.systems.end(),
                              [&](const system_result& s) { return s.name == name; });
    if (found == e.systems.end()) {
        system_result s;
        s.name = name;
        s.style = style;
        s.capacity = capacity;
        s.adapted = adapted;
        const auto tokens = static_cast<double>(e.test.tokens);
        s.flops = tokens * mox::describe<Net>(tokens).forward_flops;
        found = e.systems.insert(e.systems.end(), std::move(s));
    }
    trained t = train<Net>(name, e.what, j, e.test, seed, adapted ? j.arguments.rate / 2 : j.arguments.rate,
                           adapted ? std::max(1, j.arguments.epochs / 2) : j.arguments.epochs, weights);
    if (j.stop) return;  // half a training is not a result
    found->accuracy.push_back(t.accuracy);
    if (found->accuracy.size() == 1) found->first = std::move(t);
}

template <index_t Permille>
void add_depths(experiment& e, std::uint64_t seed, const job& j, std::shared_ptr<mox::params<dense>> start) {
    using learned = skipping<mox::route::learned, Permille>;
    using chance = skipping<mox::route::random, Permille>;
    using received = skipping<mox::route::attention_received, Permille>;
    constexpr double c = Permille / 1000.0;
    const std::string at = support::fixed(c, Permille == 500 ? 1 : 3);
    add<learned>(e, "mod-" + at, 2, c, false, seed, j);
    add<chance>(e, "random-" + at, 3, c, false, seed, j);
    add<received>(e, "amod-" + at, 4, c, false, seed, j);
    add<learned>(e, "mod-adapted-" + at, 6, c, true, seed, j, start);
    add<received>(e, "amod-adapted-" + at, 5, c, true, seed, j, start);
}

void run_seed(experiment& e, std::uint64_t seed, const job& j) {
    auto start = std::make_shared<mox::params<dense>>(mox::init::standard, seed);
    add<dense>(e, "dense", 0, 1, false, seed, j, nullptr, start);
    add<dense_3>(e, "dense-0.5", 1, 1, false, seed, j);
    add<dense_2>(e, "dense-0.125", 1, 1, false, seed, j);
    add_depths<500>(e, seed, j, start);
    add_depths<125>(e, seed, j, start);
}

// ---- Showing it

double mean(const std::vector<double>& v) {
    double sum = 0;
    for (const double x : v) sum += x;
    return v.empty() ? NAN : sum / static_cast<double>(v.size());
}

double deviation(const std::vector<double>& v) {
    if (v.size() < 2) return 0;
    double sum = 0;
    for (const double x : v) sum += (x - mean(v)) * (x - mean(v));
    return std::sqrt(sum / static_cast<double>(v.size() - 1));
}

std::vector<double> final_accuracy(const system_result& s) {
    std::vector<double> v;
    for (const auto& run : s.accuracy) v.push_back(run.back());
    return v;
}

const system_result* find(const experiment& e, const std::string& name) {
    for (const system_result& s : e.systems) {
        if (s.name == name && !s.accuracy.empty()) return &s;
    }
    return nullptr;
}

/// Mean over seeds of the first epoch whose accuracy is at least `goals[seed]`; NaN when some seed never is.
double epochs_to(const system_result& s, const std::vector<double>& goals) {
    std::vector<double> epochs;
    for (std::size_t run = 0; run < s.accuracy.size() && run < goals.size(); ++run) {
        const auto& a = s.accuracy[run];
        const auto hit = std::find_if(a.begin(), a.end(), [&](double v) { return v >= goals[run]; });
        if (hit == a.end()) return NAN;
        epochs.push_back(static_cast<double>(hit - a.begin()));
    }
    return mean(epochs);
}

/// All networks in turns, several rounds, the fastest of each: a shared machine changes its speed.
void measure_time(experiment& e) {
    for (int round = 0; round < 80; ++round) {
        for (system_result& s : e.systems) {
            if (s.accuracy.empty()) continue;
            const double t = s.first.seconds_per_image();
            s.seconds = std::isnan(s.seconds) ? t : std::min(s.seconds, t);
        }
    }
}

std::string title_of(task t) { return t == task::digits ? "digits" : "cluttered"; }

std::string points(double share) { return (share < 0 ? "" : "+") + support::fixed(100 * share, 2); }

/// The two claims of the A-MoD paper, tested on what was measured.
void judge(const experiment& e) {
    for (const std::string at : {"0.5", "0.125"}) {
        const system_result *mod = find(e, "mod-" + at), *amod = find(e, "amod-" + at),
                            *adapted = find(e, "amod-adapted-" + at);
        if (!mod || !amod || !adapted) continue;
        std::vector<double> gain;
        const auto a = final_accuracy(*amod), b = final_accuracy(*mod);
        for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) gain.push_back(a[i] - b[i]);
        std::printf(
            "%s, capacity %s: A-MoD minus learned MoD, both from scratch, %s points (spread %s over %zu "
            "seeds); ",
            title_of(e.what).c_str(), at.c_str(), points(mean(gain)).c_str(),
            support::fixed(100 * deviation(gain), 2).c_str(), gain.size());
        const double epochs = epochs_to(*adapted, b);
        const auto all = static_cast<double>(mod->accuracy[0].size() - 1);
        if (std::isnan(epochs)) {
            std::printf("A-MoD adapted from dense does not reach MoD's final accuracy in every seed\n");
        } else {
            std::printf(
                "A-MoD adapted from dense reaches MoD's final accuracy after %s epochs, MoD took %s\n",
                support::fixed(epochs, 1).c_str(), support::fixed(all, 0).c_str());
        }
    }
}

/// Images above each other; beside each, what every skipping layer of some networks processed.
void write_routing(const std::filesystem::path& path, const experiment& e, const support::image_set& set) {
    const std::vector<std::string> chosen{"amod-0.5", "mod-0.5", "amod-0.125", "mod-0.125"};
    const auto side = support::canvas_side(e.what);
    const std::size_t scale = e.what == task::digits ? 4 : 3, cell = side * scale, gap = 12, head = 44;
    const std::size_t shown = std::min<std::size_t>(6, set.count());
    support::picture p((cell + gap) * 9 + gap, head + shown * (cell + gap) + gap);
    const support::rgb ink{36, 41, 47}, light{87, 96, 106};
    p.text(gap, 8, "IMAGE", 2, ink);
    p.text(gap, 26, "BRIGHT: PROCESSED", 2, light);
    const auto patch = static_cast<std::size_t>(patch_of(e.what));
    std::vector<float> canvas(side * side);
    for (std::size_t i = 0; i < shown; ++i) {
        support::paint(e.what, set, i, 0x74657374, i, canvas.data());
        const std::size_t y0 = head + i * (cell + gap);
        std::size_t column = 0;
        const auto draw = [&](const std::vector<bool>* layer) {
            const std::size_t x0 = gap + column++ * (cell + gap);
            for (std::size_t y = 0; y < side; ++y) {
                for (std::size_t x = 0; x < side; ++x) {
                    const double v = static_cast<double>(canvas[y * side + x]);
                    const std::size_t token = 1 + y / patch * (side / patch) + x / patch;
                    const bool on = !layer || (*layer)[token];
                    // Left-out patches sink into blue-grey.
                    const auto level = [&](double dark, double bright) {
                        return static_cast<std::uint8_t>(std::lround(dark + (bright - dark) * v));
                    };
                    const support::rgb colour =
                        on ? support::rgb{level(20, 255), level(20, 245), level(24, 200)}
                           : support::rgb{level(96, 140), level(110, 150), level(128, 165)};
                    p.fill(x0 + x * scale, y0 + y * scale, scale, scale, colour);
                }
            }
        };
        draw(nullptr);
        for (const std::string& name : chosen) {
            const system_result* s = find(e, name);
            if (!s) continue;
            const auto layers = s->first.processed(static_cast<index_t>(i));
            for (std::size_t l = 0; l < layers.size() && l < 2; ++l) {
                const std::size_t x0 = gap + column * (cell + gap);
                if (i == 0) {
                    p.text(x0, 8, name, 2, ink);
                    p.text(x0, 26, "BLOCK " + std::to_string(2 * l + 2), 2, light);
                }
                draw(&layers[l]);
            }
        }
    }
    p.write(path);
}

void show(std::vector<experiment>& experiments, const job& j) {
    using support::show;
    support::table table(
        {{.title = "task", .key = "task"},
         {.title = "network", .key = "network"},
         {.title = "accuracy", .as = show::percent, .decimals = 2, .key = "accuracy_mean"},
         {.title = "spread", .as = show::percent, .decimals = 2, .key = "accuracy_deviation"},
         {.title = "seeds", .as = show::number, .decimals = 0, .key = "seeds"},
         {.title = "FLOPs/image", .as = show::human, .key = "flops_per_image"},
         {.title = "time/image",
          .as = show::number,
          .decimals = 1,
          .unit = "\u00b5s",
          .key = "microseconds_per_image_one_thread"},
         {.title = "of dense", .as = show::number, .decimals = 2, .key = "time_of_dense"},
         {.title = "epochs to dense", .as = show::number, .decimals = 1, .key = "epochs_to_dense_accuracy"}});
    std::vector<support::accuracy_panel> panels;
    for (experiment& e : experiments) {
        measure_time(e);
        const system_result* base = find(e, "dense");
        support::accuracy_panel panel{"Accuracy on " + title_of(e.what), {}};
        for (const system_result& s : e.systems) {
            if (s.accuracy.empty()) continue;
            const auto last = final_accuracy(s);
            table.add({title_of(e.what), s.name, mean(last), deviation(last),
                       static_cast<double>(last.size()), s.flops, 1e6 * s.seconds,
                       base ? s.seconds / base->seconds : NAN,
                       base ? epochs_to(s, final_accuracy(*base)) : NAN});
            panel.points.push_back({s.name, s.style, mean(last), deviation(last), s.flops, s.seconds});
        }
        panels.push_back(panel);
    }
    std::printf("\n%s", table.text().c_str());
    std::printf(
        "accuracy on %zu test images, mean over seeds; spread: standard deviation over seeds; time: forward, "
        "one thread, networks in turns;\nepochs to dense: until the accuracy of the dense network of the "
        "same seed, - when some seed never got there (a network adapted from it starts nearer).\n\n",
        j.test.count());
    for (const experiment& e : experiments) judge(e);
    const auto& out = j.arguments.out;
    table.write_csv(out / "vision_table.csv");
    support::write_accuracy_chart(
        out / "accuracy.svg", "Vision transformers with mixture of depths",
        "Mean over seeds, the bar is the standard deviation. Circles and squares only "
        "tell systems apart.",
        panels);
    std::string written;
    for (const experiment& e : experiments) {
        const auto path = out / (e.what == experiments.front().what ? "routing.png" : "routing_digits.png");
        write_routing(path, e, j.test);
        written += ", " + path.string();
    }
    std::printf("\nwritten: %s, %s%s\n", (out / "vision_table.csv").string().c_str(),
                (out / "accuracy.svg").string().c_str(), written.c_str());
}

support::image_set part(support::image_set set, std::size_t most) {
    if (set.count() > most) {
        set.labels.resize(most);
        set.pixels.resize(most * set.side * set.side);
    }
    return set;
}

int run(const std::vector<std::string_view>& words) {
    const auto arguments = support::parse_vision_arguments(words, names);
    if (arguments.help) {
        std::printf("%s", support::vision_help(names).c_str());
        return 0;
    }
    support::image_set training, test;
    if (arguments.folder.empty()) {
        training = support::draw_digits(arguments.quick ? 800 : 8000, 1);
        test = support::draw_digits(arguments.quick ? 400 : 2000, 2);
    } else {
        const auto& dir = arguments.folder;
        training = support::read_idx(dir / "train-images-idx3-ubyte", dir / "train-labels-idx1-ubyte");
        test = support::read_idx(dir / "t10k-images-idx3-ubyte", dir / "t10k-labels-idx1-ubyte");
    }
    if (arguments.quick) {
        training = part(std::move(training), 800);
        test = part(std::move(test), 400);
    }
    support::prepare_folder(arguments.out);
    mox::thread_pool pool(arguments.threads);
    const support::stop_flag stop;
    job j{arguments, stop, pool, std::move(training), std::move(test), 22};
    std::printf("%zu training and %zu test images %s, %d epochs, %d seeds, %lld threads\n",
                j.training.count(), j.test.count(),
                arguments.folder.empty() ? "drawn by this program"
                                         : ("from " + support::quoted(arguments.folder)).c_str(),
                arguments.epochs, arguments.seeds, static_cast<long long>(pool.concurrency()));
    std::fflush(stdout);
    std::vector<experiment> experiments;
    for (const task t : {task::cluttered, task::digits}) {
        if (t == task::digits ? !arguments.digits : !arguments.cluttered) continue;
        experiments.push_back({t, test_images(t, j.test), {}});
    }
    for (experiment& e : experiments) {
        for (int s = 0; s < arguments.seeds && !stop; ++s) {
            std::fprintf(stderr, "%s, seed %d of %d\n", title_of(e.what).c_str(), s + 1, arguments.seeds);
            run_seed(e, arguments.seed + static_cast<std::uint64_t>(s), j);
        }
    }
    if (stop) std::printf("\nstopped; this is what there is so far\n");
    show(experiments, j);
    return stop ? 128 + stop.signal() : 0;
}

}  // namespace

int main(int argc, char** argv) {
    return support::run_program("vision_transformer", [&] { return run({argv + 1, argv + argc}); });
}

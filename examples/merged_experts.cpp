// Two experts trained from one base on different tasks become one network that knows both: the weights are
// averaged, or merged with coefficients that are learned without any label, from what the experts answer and
// from what passes through their layers.

#include <cstdio>
#include <vector>

#include <mox/mox.hpp>

constexpr mox::index_t d_model = 48, symbols = 10, in = symbols + 3;
constexpr mox::attention_spec heads{.width = d_model, .heads = 4};

using block = mox::stack<mox::residual<mox::rms_norm<d_model>, mox::attention<heads, mox::mask::causal>>,
                         mox::residual<mox::rms_norm<d_model>, mox::swiglu<d_model, 64>>>;
// Observed: the merged network's states are compared with the expert's where the blocks begin.
using net = mox::stack<mox::linear<in, d_model>, mox::repeat<2, mox::observed<block>>, mox::rms_norm<d_model>,
                       mox::linear<d_model, symbols>>;

namespace {

constexpr mox::index_t sequences = 8, length = 24, tokens = sequences * length;
const auto rows = mox::batch::equal(sequences, length);

// A row is a symbol and the number of the task; the class is the symbol before it, moved by so much as the
// task says.
struct questions {
    std::vector<float> x;
    std::vector<mox::row_t> classes;

    questions(int task, std::uint64_t seed) {
        const mox::random_stream numbers(seed, 0);
        mox::row_t before = 0;
        for (mox::index_t t = 0; t < tokens; ++t) {
            const auto symbol =
                static_cast<mox::row_t>(numbers.bits(static_cast<std::uint64_t>(t)) % symbols);
            for (mox::index_t j = 0; j < in; ++j)
                x.push_back(j == symbol || j == symbols + task ? 1.0f : 0.0f);
            if (t % length == 0) before = 0;
            classes.push_back(static_cast<mox::row_t>((before + 3 * task) % symbols));
            before = symbol;
        }
    }
    mox::matrix_view<const float> view() const { return {x.data(), tokens, in}; }
};

void train(mox::params<net>& weights, int task, int steps, double rate) {
    mox::params<net> grads;
    mox::tape<net> tape;
    mox::adamw<net> adam{{.rate = rate, .decay = 0}};
    for (int i = 0; i < steps; ++i) {
        const questions data(task, 100 + static_cast<std::uint64_t>(i));
        const auto logits = mox::forward<net>(weights, data.view(), rows, tape);
        mox::cross_entropy<float>(logits, data.classes, tape.output_grad());
        mox::backward<net>(weights, tape, grads);
        adam.step(weights, grads);
    }
}

double loss_of(const mox::params<net>& weights, int task) {
    mox::tape<net> tape;
    const questions data(task, 7);
    return static_cast<double>(
        mox::cross_entropy<float>(mox::infer<net>(weights, data.view(), rows, tape), data.classes));
}

double show(const char* name, const mox::params<net>& weights) {
    const double first = loss_of(weights, 1), second = loss_of(weights, 2);
    std::printf("%-26s %8.3f %8.3f\n", name, first, second);
    return first + second;
}

}  // namespace

int main() {
    mox::params<net> base{mox::init::standard, 1};
    train(base, 0, 150, 3e-3);
    mox::params<net> one = base, two = base;
    train(one, 1, 100, 1e-3);
    train(two, 2, 100, 1e-3);

    std::printf("loss on                      task 1   task 2\n");
    show("base (another task)", base);
    show("expert of task 1", one);
    show("expert of task 2", two);

    mox::params<net> merged;
    mox::expert_merger<net>(base, {&one, &two}, {.start = 0.5}).merge(merged);
    const double averaged = show("half of each", merged);

    // A coefficient for every matrix, parts of fused ones apart.
    mox::expert_merger_options options{.start = 0.5};
    options.chunks_of = [](const mox::tensor_info& t) {
        return t.path.ends_with("qkv") ? mox::index_t{3} : t.path.ends_with("gate_up") ? mox::index_t{2} : 1;
    };
    mox::expert_merger<net> merger(base, {&one, &two}, options);
    mox::hidden_loss<float> hidden(0.1);
    mox::tape<net> tape, teacher;
    tape.observe(hidden);
    teacher.observe(hidden);
    mox::params<net> grads;
    mox::adamw_values<float> adam{{.rate = 3e-2, .decay = 1e-5}};
    for (int step = 0; step < 200; ++step) {
        const int task = 1 + step % 2;
        const questions data(task, 1000 + static_cast<std::uint64_t>(step));
        merger.merge(merged);
        hidden.teach();
        const auto goal = mox::infer<net>(task == 1 ? one : two, data.view(), rows, teacher);
        hidden.learn();
        const auto logits = mox::forward<net>(merged, data.view(), rows, tape);
        mox::distill<float>(logits, goal, 2.0, tape.output_grad());
        mox::backward<net>(merged, tape, grads);
        merger.backward(grads);
        merger.penalty(0.01);
        adam.step(merger.raw(), merger.gradient());
    }
    merger.merge(merged);
    const double learned = show("learned coefficients", merged);
    std::printf("\n%zu coefficients, of the first block's queries %.2f and %.2f\n", merger.raw().size(),
                static_cast<double>(merger.coefficient("1.0.0.0.1.qkv", 0)),
                static_cast<double>(merger.coefficient("1.0.0.0.1.qkv", 1)));
    return learned < averaged ? 0 : 1;
}

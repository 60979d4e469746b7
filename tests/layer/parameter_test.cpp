#include <mox/layer/parameter.hpp>

#include <set>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check_offsets(const parameter& p) {
    std::set<index_t> seen;
    for (index_t m = 0; m < p.count; ++m) {
        for (index_t k = 0; k < p.rows; ++k) {
            for (index_t n = 0; n < p.logical_cols(); ++n) {
                const index_t at = element_offset<T>(p, m, k, n);
                CHECK(at >= m * matrix_elements<T>(p));
                CHECK(at < (m + 1) * matrix_elements<T>(p));
                CHECK(seen.insert(at).second);
            }
        }
    }
    CHECK(static_cast<index_t>(seen.size()) == p.logical_size());
    CHECK(tensor_elements<T>(p) >= p.count * matrix_elements<T>(p));
    CHECK(tensor_elements<T>(p) * static_cast<index_t>(sizeof(T)) % static_cast<index_t>(alignment) == 0);
}

using nested = stack<linear<3, 5, bias::with>, repeat<2, residual<rms_norm<5>, swiglu<5, 7>>>, linear<5, 2>>;

}  // namespace

TEST_CASE("parameter: every element has a place of its own", "[layer][parameter]") {
    for (const storage form :
         {storage::vector, storage::rows, storage::panels, storage::sparse_panels, storage::gated_panels}) {
        for (const index_t cols : {index_t{1}, index_t{7}, index_t{16}, index_t{65}, index_t{130}}) {
            for (const index_t rows : {index_t{1}, index_t{3}}) {
                if (form == storage::vector && rows != 1) continue;
                const parameter p{.name = "x", .form = form, .count = 2, .rows = rows, .cols = cols};
                CAPTURE(static_cast<int>(form), cols, rows);
                check_offsets<float>(p);
                check_offsets<double>(p);
            }
        }
    }
    const parameter gated{.name = "x", .form = storage::gated_panels, .rows = 4, .cols = 6};
    CHECK(gated.logical_cols() == 12);
    CHECK(gated.logical_size() == 48);
}

TEMPLATE_TEST_CASE("parameter: every matrix of sparse panels has an index of its own", "[layer][parameter]",
                   float, double) {
    using T = TestType;
    const parameter p{.name = "x", .form = storage::sparse_panels, .count = 3, .rows = 5, .cols = 70};
    buffer<T> memory(tensor_elements<T>(p));
    for (index_t m = 0; m < 3; ++m) {
        for (index_t i = 0; i < 10 * m; ++i) memory[element_offset<T>(p, m, i % 5, 7 * (i / 5))] = T(1);
    }
    index_values<T>(p, memory.data());
    for (index_t m = 0; m < 3; ++m) {
        const T* const from = memory.data() + m * matrix_elements<T>(p) + detail::index_offset<T>(p);
        CHECK(kernel::sparse_rows<T>{reinterpret_cast<const std::byte*>(from), 5, 70}.size() == 10 * m);
        CHECK(memory[element_offset<T>(p, m, 4, 69)] == T(0));
    }
}

TEST_CASE("parameter: paths, ordinals and offsets of a nested network", "[layer][parameter]") {
    const auto all = params<nested, float>::tensors();
    std::vector<std::string> paths;
    index_t end = 0, ordinal = 0;
    for (const auto& t : all) {
        paths.push_back(t.path);
        CHECK(t.offset == end);
        CHECK(t.ordinal == ordinal++);
        end = t.offset + tensor_elements<float>(t.spec);
    }
    CHECK(end == (parameter_extent<nested, float>().trained));
    CHECK(parameter_extent<nested, float>().frozen == 0);
    CHECK(paths.size() == 9);
    CHECK(paths.front() == "0.weight");
    CHECK(paths[1] == "0.bias");
    CHECK(paths.back() == "2.weight");
    CHECK(std::set<std::string>(paths.begin(), paths.end()).size() == paths.size());
    const auto doubles = params<nested, double>::tensors();
    REQUIRE(doubles.size() == all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
        CHECK(doubles[i].path == all[i].path);
        CHECK(doubles[i].ordinal == all[i].ordinal);
    }
    CHECK(params<nested, float>::count() == 15 + 5 + 2 * (5 + 70 + 35) + 10);
}

TEST_CASE("parameter: references find the same places as the paths", "[layer][parameter]") {
    params<nested, float> w(init::standard, 3);
    const auto ref = w.ref();
    const auto offset_of = [&](const std::string& path) {
        for (const auto& t : params<nested, float>::tensors()) {
            if (t.path == path) return t.offset;
        }
        return index_t{-1};
    };
    CHECK(ref.child<0>()[0] == w.flat().data() + offset_of("0.weight"));
    CHECK(ref.child<0>()[1] == w.flat().data() + offset_of("0.bias"));
    CHECK(ref.child<2>()[0] == w.flat().data() + offset_of("2.weight"));
    const auto panel = ref.child<0>().panels<0>();
    CHECK(panel.rows == 3);
    const auto values = w.read("0.weight");
    for (index_t k = 0; k < 3; ++k) {
        for (index_t n = 0; n < 5; ++n) CHECK(panel(k, n) == values[static_cast<std::size_t>(k * 5 + n)]);
    }
}

namespace {

// A layer with names for its children and a tensor that is not trained, partly frozen.
struct named {
    static constexpr index_t in = 5, out = 5;
    using children =
        leaves<linear<5, 5, bias::with>, frozen<repeat<2, stack<linear<5, 5>, frozen<rms_norm<5>>>>>>;
    static constexpr std::array<std::string_view, 2> child_names{"first", "second"};
    static constexpr std::array parameters{parameter{.name = "weight", .cols = 5},
                                           parameter{.name = "counter", .cols = 3, .trained = false},
                                           parameter{.name = "shift", .cols = 5}};
    static constexpr double flops(double) { return 0; }
    template <class T>
    static void forward(context<T>&, param_ref<named, const T>, matrix_view<const T>, matrix_view<T>) {}
    template <class T>
    static void backward(context<T>&, param_ref<named, const T>, param_ref<named, T>, matrix_view<const T>,
                         matrix_view<T>) {}
};

}  // namespace

TEST_CASE("parameter: what is trained and what is not lie in two buffers, each place once",
          "[layer][parameter]") {
    using net = stack<rms_norm<5>, named, named>;
    const auto all = params<net, float>::tensors();
    std::vector<std::string> paths;
    std::set<std::pair<bool, index_t>> places;
    index_t ends[2] = {0, 0};
    for (const auto& t : all) {
        paths.push_back(t.path);
        CHECK(places.insert({t.spec.trained, t.offset}).second);
        ends[t.spec.trained] += tensor_elements<float>(t.spec);
    }
    CHECK(ends[1] == (parameter_extent<net, float>().trained));
    CHECK(ends[0] == (parameter_extent<net, float>().frozen));
    const std::vector<std::string> first(paths.begin() + 1, paths.begin() + 10);
    CHECK(first == std::vector<std::string>{"1.weight", "1.counter", "1.shift", "1.first", "1.first.bias",
                                            "1.second.0.0.0.weight", "1.second.0.0.1.0.gain",
                                            "1.second.0.1.0.weight", "1.second.0.1.1.0.gain"});
    CHECK(all[2].spec.trained == false);
    CHECK(all[3].spec.trained);
    CHECK(all[6].spec.trained == false);

    // Every tensor by its reference is every tensor by its path.
    params<net, float> w;
    for (const auto& t : all) {
        w.write(t, std::vector<float>(static_cast<std::size_t>(t.spec.logical_size()),
                                      static_cast<float>(t.ordinal)));
    }
    const auto two = w.ref().child<2>();
    const auto at = [&](const std::string& path) { return w.read(path)[0]; };
    CHECK(two[0][0] == at("2.weight"));
    CHECK(two[1][0] == at("2.counter"));
    CHECK(two[2][0] == at("2.shift"));
    CHECK(two.child<0>()[1][0] == at("2.first.bias"));
    const auto inside = two.child<1>().child<0>();
    CHECK(inside.child<0>(0).child<0>()[0][0] == at("2.second.0.0.0.weight"));
    CHECK(inside.child<0>(0).child<1>().child<0>()[0][0] == at("2.second.0.0.1.0.gain"));
    CHECK(inside.child<0>(1).child<0>()[0][0] == at("2.second.0.1.0.weight"));
    CHECK(inside.child<0>(1).child<1>().child<0>()[0][0] == at("2.second.0.1.1.0.gain"));

    // References to gradients of what is not trained are empty.
    params<net, float> g;
    const auto grads = g.ref().child<1>();
    CHECK(grads);
    CHECK(grads[0] != nullptr);
    CHECK(grads[1] == nullptr);
    CHECK(grads.child<0>()[0] != nullptr);
    CHECK(!grads.child<1>().child<0>());
    CHECK(!grads.child<1>().child<0>().child<0>(1).child<0>());
}

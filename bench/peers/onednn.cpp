// oneDNN, on one thread like mox's row beside it: primitives are made once per size and kept, weights are
// laid out once as the primitive wishes.

#include <array>
#include <map>
#include <unordered_map>

#include <dlfcn.h>

#include <oneapi/dnnl/dnnl.hpp>

#include "peers/attention.hpp"
#include "peers/gathered_moe.hpp"

namespace {

using namespace bench;
using dnnl::matmul;
using dnnl::memory;
using tag = memory::format_tag;
using type = memory::data_type;

memory::desc rows_of(index_t rows, index_t cols, index_t stride, type t = type::f32) {
    return {{rows, cols}, t, memory::dims{stride, 1}};
}

struct onednn_peer {
    static constexpr const char* name = "onednn";

    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::map<std::array<index_t, 8>, matmul> made;

    // The OpenMP library that oneDNN itself has loaded, if it uses one: another compiler's would not do.
    onednn_peer() {
        using setter = void (*)(int);
        if (const auto set = reinterpret_cast<setter>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"))) set(1);
    }

    static matmul::primitive_desc describe(const dnnl::engine& on, const memory::desc& a,
                                           const memory::desc& b, const memory::desc& c,
                                           const dnnl::primitive_attr& attributes = {}) {
#if DNNL_VERSION_MAJOR >= 3
        return {on, a, b, c, attributes};
#else
        return {matmul::desc(a, b, c), attributes, on};
#endif
    }
    memory at(const memory::desc& shape, const void* data) const {
        return {shape, engine, const_cast<void*>(data)};
    }

    // oneDNN reads a transposed factor by its strides.
    void product(form f, view a, view b, target c, bool add = false) {
        const extents e(f, a, b);
        const memory::desc da = f == form::tn ? memory::desc({e.m, e.k}, type::f32, memory::dims{1, a.stride})
                                              : rows_of(e.m, e.k, a.stride);
        const memory::desc db = f == form::nt ? memory::desc({e.k, e.n}, type::f32, memory::dims{1, b.stride})
                                              : rows_of(e.k, e.n, b.stride);
        const memory::desc dc = rows_of(e.m, e.n, c.stride);
        auto& primitive =
            made[{static_cast<index_t>(f), e.m, e.n, e.k, a.stride, b.stride, c.stride, index_t{add}}];
        if (!primitive) {
            dnnl::primitive_attr attributes;
            if (add) {
                dnnl::post_ops sum;
                sum.append_sum(1.0f);
                attributes.set_post_ops(sum);
            }
            primitive = matmul(describe(engine, da, db, dc, attributes));
        }
        primitive.execute(stream, {{DNNL_ARG_SRC, at(da, a.data)},
                                   {DNNL_ARG_WEIGHTS, at(db, b.data)},
                                   {DNNL_ARG_DST, at(dc, c.data)}});
        stream.wait();
    }

    // A matrix in the layout that a product with 128 rows asks for: with 16 rows it asks for the same.
    struct weight {
        memory values;
        std::unordered_map<index_t, matmul> by_rows;

        weight(onednn_peer& p, view v, type t = type::f32) {
            const memory::desc any({v.rows, v.cols}, t, tag::any);
            const auto d =
                describe(p.engine, rows_of(128, v.rows, v.rows, t), any, rows_of(128, v.cols, v.cols));
            values = memory(d.weights_desc(), p.engine);
            load(p, v);
        }
        void load(onednn_peer& p, view v) {
            memory from = p.at(rows_of(v.rows, v.cols, v.stride), v.data);
            dnnl::reorder(from, values).execute(p.stream, from, values);
            p.stream.wait();
        }
    };
    void apply(view rows, weight& w, target c) { multiply(rows.data, type::f32, rows, w, c); }

    void multiply(const void* a, type t, view rows, weight& w, target c) {
        const memory::desc da = rows_of(rows.rows, rows.cols, rows.cols, t), db = w.values.get_desc(),
                           dc = rows_of(c.rows, c.cols, c.stride);
        auto& primitive = w.by_rows[rows.rows];
        if (!primitive) primitive = matmul(describe(engine, da, db, dc));
        primitive.execute(
            stream,
            {{DNNL_ARG_SRC, at(da, a)}, {DNNL_ARG_WEIGHTS, w.values}, {DNNL_ARG_DST, at(dc, c.data)}});
        stream.wait();
    }
};

// Weights and rows in bf16, sums in f32.
struct onednn_bf16_peer : onednn_peer {
    std::vector<Eigen::bfloat16> narrow;

    struct weight : onednn_peer::weight {
        weight(onednn_bf16_peer& p, view v) : onednn_peer::weight(p, v, type::bf16) {}
    };
    void apply(view rows, weight& w, target c) {
        narrow.resize(static_cast<std::size_t>(rows.rows * rows.cols));
        memory from = at(rows_of(rows.rows, rows.cols, rows.stride), rows.data),
               to = at(rows_of(rows.rows, rows.cols, rows.cols, type::bf16), narrow.data());
        auto& convert = conversions[{rows.rows, rows.cols}];
        if (!convert) convert = dnnl::reorder(from, to);
        convert.execute(stream, from, to);
        multiply(narrow.data(), type::bf16, rows, w, c);
    }
    std::map<std::array<index_t, 2>, dnnl::reorder> conversions;
};

// Rows in 8 bits with a scale each, weights in 8 bits with a scale per column: dynamic quantisation as
// inference runtimes do it.
struct onednn_int8_peer : onednn_peer {
    struct weight : onednn_peer::weight {
        Eigen::Array<float, 1, Eigen::Dynamic> scales;
        weight(onednn_int8_peer& p, view v) : onednn_peer::weight(p, v, type::s8) {
            scales = eigen(v).cwiseAbs().colwise().maxCoeff() / 127;
            const Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> whole =
                (eigen(v).array().rowwise() / scales).round();
            load(p, view(whole.data(), v.rows, v.cols));
        }
    };
    std::vector<std::int8_t> narrow;

    void apply(view rows, weight& w, target c) {
        narrow.resize(static_cast<std::size_t>(rows.rows * rows.cols));
        scale.resize(rows.rows);
        for (index_t i = 0; i < rows.rows; ++i) {
            const auto row = eigen(rows).row(i).array();
            scale(i) = row.abs().maxCoeff() / 127;
            const float to_whole = scale(i) > 0 ? 1 / scale(i) : 0.0f;
            std::int8_t* to = narrow.data() + i * rows.cols;
            for (index_t j = 0; j < rows.cols; ++j)
                to[j] = static_cast<std::int8_t>(std::nearbyint(row(j) * to_whole));
        }
        multiply(narrow.data(), type::s8, rows, w, c);
        for (index_t i = 0; i < rows.rows; ++i) eigen(c).row(i).array() *= scale(i) * w.scales;
    }
    Eigen::ArrayXf scale;
};

// A peer of the layer with narrow weights. bound: what the rounding of rows and weights may cost.
template <class Peer>
void add_prefill(const std::string& format, double bound) {
    add_competitor("moe_formats/prefill_" + format + "/" + moe_shapes[0].name(),
                   moe_competitor(Peer::name, moe_shapes[0], &gathered_moe<Peer>::infer, bound));
}

const bool added = [] {
    add_gathered_moe<onednn_peer>();
#ifndef MOX_BENCH_TORCH
    // LibTorch contains another oneDNN, and both define the flag by which the kernels for small products are
    // made once: with both in a program, this one's are never made.
    add_attention<onednn_peer>();
#endif
    add_prefill<onednn_bf16_peer>("bf16", 1e-2);
    add_prefill<onednn_int8_peer>("int8", 3e-2);
    return true;
}();

}  // namespace

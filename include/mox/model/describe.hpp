#pragma once

// What a network is made of and what it costs, known without running it.

#include <cstdio>
#include <string>
#include <vector>

#include <mox/model/params.hpp>

namespace mox::inline MOX_ABI {

/// One layer of a network. Numbers include the layers inside; repeated blocks appear once with their count.
struct layer_row {
    std::string path;
    std::string name;
    index_t depth = 0;        ///< nesting
    index_t repetitions = 1;  ///< how many copies of this layer the network has
    index_t in = 0, out = 0;
    index_t parameters = 0;        ///< of one copy
    double active_parameters = 0;  ///< that one token touches on average, of one copy
    double flops = 0;              ///< forward, per token, of one copy
    index_t bytes = 0;             ///< of the parameters in memory, as float or packed, of one copy
};

/// A network in numbers.
struct network_summary {
    std::vector<layer_row> layers;
    index_t parameters = 0;
    double active_parameters = 0;
    double forward_flops = 0;   ///< per token at the given context
    double training_flops = 0;  ///< forward and backward: three times forward
    index_t bytes = 0;          ///< of the parameters in memory, as float or packed
};

namespace detail {

template <class L>
double active_parameters() {
    double n = 0;
    if constexpr (requires { L::parameters; }) {
        index_t i = 0;
        for (const parameter& p : L::parameters) {
            double share = 1.0;
            if constexpr (requires { L::active_share(index_t{0}); }) share = L::active_share(i);
            n += share * static_cast<double>(p.logical_size());
            ++i;
        }
    }
    for_each_index<children_of<L>::size>([&](auto i) {
        double share = static_cast<double>(repetitions<L>());
        if constexpr (requires { L::child_active_share(std::size_t{0}); }) share *= L::child_active_share(i);
        n += share * active_parameters<typename children_of<L>::template at<i>>();
    });
    return n;
}

template <class L>
index_t all_parameters() {
    index_t n = 0;
    for_each_parameter<L, float>(
        [&](const parameter& p, index_t, const std::string&, index_t) { n += p.logical_size(); });
    return n;
}

template <class L>
constexpr index_t parameter_bytes() {
    constexpr extent all = parameter_extent<L, float>();
    return (all.trained + all.frozen) * static_cast<index_t>(sizeof(float));
}

template <class L>
void describe_layer(std::vector<layer_row>& rows, const std::string& path, index_t depth, index_t copies,
                    double context) {
    layer_row row;
    row.path = path;
    if constexpr (requires { L::name; }) {
        row.name = std::string(L::name);
    } else {
        row.name = "layer";
    }
    row.depth = depth;
    row.repetitions = copies;
    row.in = L::in;
    row.out = L::out;
    row.parameters = all_parameters<L>();
    row.active_parameters = active_parameters<L>();
    row.flops = L::flops(context);
    row.bytes = parameter_bytes<L>();
    rows.push_back(row);
    double inner = context;
    if constexpr (requires { L::share; }) inner *= L::share;
    for_each_index<children_of<L>::size>([&](auto i) {
        describe_layer<typename children_of<L>::template at<i>>(
            rows, (path.empty() ? "" : path + ".") + std::to_string(static_cast<std::size_t>(i)), depth + 1,
            copies * repetitions<L>(), inner);
    });
}

}  // namespace detail

/// `context`: mean number of tokens an attention query sees ((T + 1) / 2 for causal sequences of length T).
template <class Net>
network_summary describe(double context = 1) {
    static_assert(check_network<Net>());
    network_summary s;
    detail::describe_layer<Net>(s.layers, "", 0, 1, context);
    s.parameters = detail::all_parameters<Net>();
    s.active_parameters = detail::active_parameters<Net>();
    s.bytes = detail::parameter_bytes<Net>();
    s.forward_flops = Net::flops(context);
    s.training_flops = 3 * s.forward_flops;
    return s;
}

/// The summary as a text table.
inline std::string to_string(const network_summary& s) {
    std::string text;
    char line[160];
    std::snprintf(line, sizeof line, "%-34s %6s %13s %12s %12s %14s %12s\n", "layer", "copies", "in -> out",
                  "parameters", "active", "FLOPs/token", "bytes");
    text += line;
    const auto add = [&](const std::string& label, index_t copies, const std::string& shape,
                         double parameters, double active, double flops, index_t bytes) {
        std::snprintf(line, sizeof line, "%-34s %6lld %13s %12.0f %12.0f %14.0f %12lld\n", label.c_str(),
                      static_cast<long long>(copies), shape.c_str(), parameters, active, flops,
                      static_cast<long long>(bytes));
        text += line;
    };
    for (const layer_row& r : s.layers) {
        const std::string indent(static_cast<std::size_t>(2 * r.depth), ' ');
        add(indent + r.name, r.repetitions, std::to_string(r.in) + " -> " + std::to_string(r.out),
            static_cast<double>(r.parameters), r.active_parameters, r.flops, r.bytes);
    }
    return text;
}

}  // namespace mox::inline MOX_ABI

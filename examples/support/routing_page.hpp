#pragma once

// The routing as a page: every byte of a passage is a cell whose colour tells which expert it used.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "files.hpp"
#include "routing_assets.hpp"
#include "text.hpp"

namespace support {

/// One choice of one byte. Experts from `experts - null_experts` on are null; -1: dropped, it was full.
struct expert_use {
    int expert = 0;
    float gate = 0;
};

struct routed_layer {
    enum class kind { experts, depth };
    kind what = kind::experts;
    std::string label;                          ///< for people: "block 3"
    int experts = 0;                            ///< null experts included
    int null_experts = 0;                       ///< the last of them
    std::vector<std::vector<expert_use>> uses;  ///< experts: per byte, first choice first; empty: not reached
    std::vector<bool> processed;                ///< depth: per byte, whether the block computed it
};

struct routed_network {
    std::string name;
    std::vector<unsigned char> text;
    int blocks = 0;  ///< a byte passes all but those whose depth layer skipped it
    std::vector<routed_layer>
        layers;  ///< in the order of computation; empty: a dense network, a line without text
};

struct routing_page {
    std::string title = "Who computes which byte";
    std::string note;  ///< one more sentence: the text, the training
    std::vector<routed_network> networks;
};

namespace detail {

/// A longer passage is cut: nobody reads it, and browsers grow slow.
constexpr std::size_t longest_passage = 6000;

inline std::string hex(unsigned char byte) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    return {digits[byte >> 4u], digits[byte & 15u]};
}

inline void check_network(const routed_network& network) {
    const auto refuse = [&](const std::string& what) {
        throw std::invalid_argument("support::routing_html: network '" + network.name + "': " + what);
    };
    int depths = 0;
    for (const routed_layer& layer : network.layers) {
        const bool depth = layer.what == routed_layer::kind::depth;
        depths += depth ? 1 : 0;
        const std::size_t rows = depth ? layer.processed.size() : layer.uses.size();
        if (rows != network.text.size()) {
            refuse("layer '" + layer.label + "' has " + std::to_string(rows) + " rows, but the text " +
                   std::to_string(network.text.size()) + " bytes");
        }
        if (depth) continue;
        if (layer.null_experts < 0 || layer.null_experts > layer.experts) {
            refuse("layer '" + layer.label + "' has more null experts than experts");
        }
        for (const auto& uses : layer.uses) {
            for (const expert_use& u : uses) {
                if (u.expert >= -1 && u.expert < layer.experts) continue;
                refuse("layer '" + layer.label + "' has no expert " + std::to_string(u.expert));
            }
        }
    }
    if (depths > network.blocks) refuse("has more depth layers than blocks");
}

/// The cells of one passage. Bytes that draw nothing get a visible sign; the bytes of one UTF-8 character
/// form a group that shows the character first and its other bytes as hex.
inline std::string cells(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const code_point c = decode_utf8(text, at);
        const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
        if (c.valid && c.bytes > 1 && is_visible(c.value)) {
            out += "<span class=\"g\"><i>" + std::string(text.substr(at, c.bytes)) + "</i>";
            for (std::size_t k = 1; k < c.bytes; ++k) out += "<i class=\"h\">" + hex(byte(at + k)) + "</i>";
            out += "</span>";
            at += c.bytes;
            continue;
        }
        const unsigned char b = byte(at++);
        if (b == ' ') {
            out += "<i class=\"s\">\u00b7</i>";
        } else if (b == '\n') {
            out += "<i class=\"s\">\u23ce</i><br>";
        } else if (b == '\t') {
            out += "<i class=\"s\">\u2192</i>";
        } else if (b > ' ' && b < 0x7F) {
            out += "<i>" + escape_markup(std::string(1, static_cast<char>(b))) + "</i>";
        } else {
            out += "<i class=\"h\">" + hex(b) + "</i>";
        }
    }
    return out;
}

/// What the script of the page needs to know about a layer. Gates are per mille: shorter.
inline std::string layer_data(const routed_layer& layer, std::size_t bytes) {
    const bool depth = layer.what == routed_layer::kind::depth;
    std::string out = std::string("{kind:\"") + (depth ? "depth" : "experts") +
                      "\",label:" + script_literal(layer.label) +
                      ",experts:" + std::to_string(layer.experts) +
                      ",nulls:" + std::to_string(layer.null_experts) + ",rows:";
    if (depth) {
        out += '"';
        for (std::size_t i = 0; i < bytes; ++i) out += layer.processed[i] ? '1' : '0';
        return out + "\"}";
    }
    out += '[';
    for (std::size_t i = 0; i < bytes; ++i) {
        out += i == 0 ? "[" : ",[";
        bool first = true;
        for (const expert_use& u : layer.uses[i]) {
            const bool usable = std::abs(u.gate) < 1e6f;  // false for NaN, too
            out += (first ? "" : ",") + std::to_string(u.expert) + ',' +
                   (usable ? std::to_string(std::lround(u.gate * 1000)) : std::string("null"));
            first = false;
        }
        out += ']';
    }
    return out + "]}";
}

inline std::string section(const routed_network& network) {
    const std::size_t bytes = std::min(network.text.size(), longest_passage);
    const std::string text(network.text.begin(), network.text.begin() + static_cast<std::ptrdiff_t>(bytes));
    std::string out = "<section>\n<h2>" + escape_markup(network.name) + "</h2>\n";
    if (network.layers.empty()) {
        return out +
               "<p class=\"about\">This network has no choice to make: every byte passes through "
               "everything, all " +
               std::to_string(network.blocks) + " blocks with all their weights.</p>\n</section>\n";
    }
    out += "<p class=\"about\"></p>\n<div class=\"views\" role=\"group\" aria-label=\"layer\"></div>\n"
           "<div class=\"legend\"></div>\n<div class=\"text\">" +
           cells(text) + "</div>\n";
    if (bytes < network.text.size()) {
        out += "<p class=\"about\">Shown are the first " + std::to_string(bytes) + " of " +
               std::to_string(network.text.size()) + " bytes.</p>\n";
    }
    return out + "</section>\n";
}

inline std::string network_data(const routed_network& network) {
    const std::size_t bytes = std::min(network.text.size(), longest_passage);
    std::string out = "{blocks:" + std::to_string(network.blocks) + ",text:\"";
    for (std::size_t i = 0; i < bytes; ++i) out += hex(network.text[i]);
    out += "\",layers:[";
    for (std::size_t i = 0; i < network.layers.size(); ++i) {
        out += (i == 0 ? "\n" : ",\n") + layer_data(network.layers[i], bytes);
    }
    return out + "]}";
}

}  // namespace detail

/// The whole page; it needs nothing but itself. Throws `std::invalid_argument` where the rows of a layer do
/// not belong to the text.
inline std::string routing_html(const routing_page& page) {
    for (const routed_network& n : page.networks) detail::check_network(n);
    std::string out = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
                      escape_markup(page.title) + "</title>\n<style>\n";
    out +=
        std::string(routing_style()) + "</style>\n</head>\n<body>\n<h1>" + escape_markup(page.title) +
        "</h1>\n<p class=\"lead\">Each cell is one byte of text the networks did not learn from; its colour "
        "is the expert it chose first in the selected layer, a bar below it shows how many of the "
        "network\u2019s blocks it passed through, and pointing at a cell tells all its choices.";
    if (!page.note.empty()) out += " " + escape_markup(page.note);
    out += "</p>\n<noscript><p class=\"lead\">The colours need JavaScript, which is off.</p></noscript>\n";
    for (const routed_network& n : page.networks) out += detail::section(n);
    out += "<div id=\"tip\" hidden></div>\n<script>\nconst networks = [";
    for (std::size_t i = 0; i < page.networks.size(); ++i) {
        out += (i == 0 ? "\n" : ",\n") + detail::network_data(page.networks[i]);
    }
    out += "];\n";
    out += routing_script();
    return out + "</script>\n</body>\n</html>\n";
}

inline void write_routing_page(const std::filesystem::path& path, const routing_page& page) {
    write_file(path, routing_html(page));
}

}  // namespace support

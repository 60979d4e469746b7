#include "../../examples/support/routing_page.hpp"

#include <cmath>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../support/catch.hpp"

namespace {

using support::routed_layer;

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

std::size_t count(std::string_view text, std::string_view part) {
    std::size_t n = 0;
    for (std::size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++n;
    return n;
}

std::vector<unsigned char> bytes(std::string_view text) { return {text.begin(), text.end()}; }

/// A network with one layer of four experts, the last of them null.
support::routed_network network(std::string_view text) {
    routed_layer layer;
    layer.label = "block 1";
    layer.experts = 4;
    layer.null_experts = 1;
    layer.uses.resize(text.size(), {{2, 0.75f}, {3, 0.25f}});
    return {"experts", bytes(text), 2, {layer}};
}

std::string page(support::routed_network n) { return support::routing_html({"Title", "", {std::move(n)}}); }

}  // namespace

TEST_CASE("routing page: text and names cannot become markup", "[examples]") {
    const std::string evil = "</script><script>alert(1)</script><!--&\"'";
    auto n = network(evil);
    const std::size_t scripts = count(page(network("x")), "<script");
    n.name = n.layers[0].label = evil;
    const std::string html = support::routing_html({evil, evil, {n}});
    CHECK(count(html, "<script") == scripts);
    CHECK(count(html, "</script") == scripts);
    CHECK_FALSE(has(html, "<!--"));
    CHECK(has(html, "&lt;/script&gt;"));
    CHECK(has(html, "\\u003c/script\\u003e"));
    CHECK(has(html, "<i>&lt;</i><i>/</i><i>s</i>"));
}

TEST_CASE("routing page: every byte value has one visible cell", "[examples]") {
    std::string text;
    for (int i = 0; i < 256; ++i) text += static_cast<char>(static_cast<unsigned char>(i));
    const std::string html = page(network(text));
    CHECK(count(html, "<i>") + count(html, "<i ") == 256);
    CHECK(has(html, "<i class=\"h\">00</i>"));
    CHECK(has(html, "<i class=\"h\">FF</i>"));
    CHECK(has(html, "<i class=\"s\">\u00b7</i>"));
    CHECK(has(html, "<i class=\"s\">\u23ce</i><br>"));
    CHECK(has(html, "<i class=\"s\">\u2192</i>"));
    for (const char c : html) REQUIRE((static_cast<unsigned char>(c) >= 0x20 || c == '\n'));
}

TEST_CASE("routing page: UTF-8 is grouped, what hides or turns text is not drawn", "[examples]") {
    CHECK(has(page(network("\u00f6")), "<span class=\"g\"><i>\u00f6</i><i class=\"h\">B6</i></span>"));
    CHECK_FALSE(has(page(network("\u202e")), "\u202e"));
    CHECK(has(page(network("\u202e")), "<i class=\"h\">E2</i><i class=\"h\">80</i><i class=\"h\">AE</i>"));
    CHECK(count(page(network("\xe6\xbc")), "<i class=\"h\">") == 2);  // cut in the middle
}

TEST_CASE("routing page: the data says what happened", "[examples]") {
    auto n = network("abc");
    n.layers[0].uses[1] = {};
    n.layers[0].uses[2] = {{-1, std::nanf("")}};
    routed_layer depth;
    depth.what = routed_layer::kind::depth;
    depth.label = "block 2";
    depth.processed = {true, false, true};
    n.layers.push_back(depth);
    const std::string html = page(n);
    CHECK(has(html, "blocks:2,text:\"616263\""));
    CHECK(has(html, "experts:4,nulls:1,rows:[[2,750,3,250],[],[-1,null]]"));
    CHECK(has(html, "{kind:\"depth\",label:\"block 2\",experts:0,nulls:0,rows:\"101\"}"));
    CHECK_FALSE(has(html, "http"));  // nothing from elsewhere
    CHECK_FALSE(has(html, "src="));
}

TEST_CASE("routing page: a dense network is one line, an empty page is a page", "[examples]") {
    const std::string html = page({"dense", bytes("abc"), 6, {}});
    CHECK(has(html, "every byte passes through everything, all 6 blocks"));
    CHECK_FALSE(has(html, "class=\"text"));
    CHECK(support::routing_html({}).ends_with("</html>\n"));
    CHECK(has(page(network("")), "class=\"text\""));
}

TEST_CASE("routing page: a long passage is cut and says so", "[examples]") {
    const std::string html = page(network(std::string(7000, 'x')));
    CHECK(count(html, "<i>") == 6000);
    CHECK(has(html, "Shown are the first 6000 of 7000 bytes."));
}

TEST_CASE("routing page: rows that do not belong to the text are refused", "[examples]") {
    auto rows = network("abc");
    rows.layers[0].uses.pop_back();
    CHECK_THROWS_AS(page(rows), std::invalid_argument);
    auto expert = network("abc");
    expert.layers[0].uses[0] = {{4, 1.0f}};
    CHECK_THROWS_AS(page(expert), std::invalid_argument);
    auto nulls = network("abc");
    nulls.layers[0].null_experts = 5;
    CHECK_THROWS_AS(page(nulls), std::invalid_argument);
}

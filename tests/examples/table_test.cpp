#include "../../examples/support/table.hpp"

#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

#include "../support/catch.hpp"

using support::human;
using support::show;

TEST_CASE("format: units people read", "[examples]") {
    CHECK(human(1.9e6) == "1.9 M");
    CHECK(human(12345, "tokens/s") == "12.3 k tokens/s");
    CHECK(human(0) == "0");
    CHECK(human(870) == "870");
    CHECK(human(999.6) == "1.0 k");
    CHECK(human(999'960) == "1.0 M");
    CHECK(human(-2500) == "-2.5 k");
    CHECK(human(0.25) == "0.250");
    CHECK(human(std::nan("")) == "-");
    CHECK(human(std::numeric_limits<double>::infinity()) == "-");
    CHECK_FALSE(human(std::numeric_limits<double>::max()).empty());
    CHECK(support::human_bytes(1) == "1 byte");
    CHECK(support::human_bytes(64e6) == "64 MB");
    CHECK(support::human_bytes(3.84e6) == "3.8 MB");
    CHECK(support::human_seconds(0.42) == "0.42 s");
    CHECK(support::human_seconds(125) == "2 min 05 s");
    CHECK(support::human_seconds(3599.7) == "1 h 00 min");
    CHECK(support::human_seconds(std::nan("")) == "-");
    CHECK(support::fixed(-0.0001, 2) == "0.00");
    CHECK(support::exact(0.1) == "0.1");
}

TEST_CASE("text: widths and what a terminal must not see", "[examples]") {
    CHECK(support::display_width("abc") == 3);
    CHECK(support::display_width("gr\u00f6\u00dfe") == 5);
    CHECK(support::display_width("\u6f22\u5b57") == 4);
    CHECK(support::display_width("e\u0301") == 1);
    CHECK(support::display_width("\xff") == 1);
    CHECK(support::printable("a\x1b[31mb") == "a\uFFFD[31mb");
    CHECK(support::printable("\xC0\xAF") == "\uFFFD\uFFFD");  // an overlong slash
    CHECK(support::printable("\xED\xA0\x80").size() == 9);    // a surrogate
    CHECK(support::printable("\xE6\xBC") == "\uFFFD\uFFFD");  // cut short
}

TEST_CASE("table: columns align, numbers to the right", "[examples]") {
    support::table t(
        {{"network"}, {"parameters", show::human}, {"active", show::percent}, {"loss", show::number, 3}});
    t.add({"dense", 1.9e6, 1.0, 2.3456});
    t.add({"\u6f22\u5b57", 870, 0.125, std::nan("")});
    CHECK(t.text() == "network  parameters   active   loss\n"
                      "-------  ----------  -------  -----\n"
                      "dense         1.9 M  100.0 %  2.346\n"
                      "\u6f22\u5b57            870   12.5 %      -\n");
    CHECK_THROWS_AS(t.add({"too short"}), std::invalid_argument);
}

TEST_CASE("table: CSV keeps raw numbers and quotes by RFC 4180", "[examples]") {
    support::table t(
        {{"network"}, {"speed, mean", show::human, 1, "tokens/s"}, {"p", show::percent, 1, "", "part"}});
    t.add({"say \"hi\", you", 12345.678, 0.125});
    t.add({"two\nlines", std::nan(""), support::cell{}});
    t.add({std::string("plain"), 3, true});
    CHECK(t.csv() == "network,\"speed, mean\",part\r\n"
                     "\"say \"\"hi\"\", you\",12345.678,0.125\r\n"
                     "\"two\nlines\",,\r\n"
                     "plain,3,1\r\n");
}

TEST_CASE("table: an empty one is only its head", "[examples]") {
    const support::table t({{"a"}, {"b", show::number}});
    CHECK(t.text() == "a  b\n-  -\n");
    CHECK(t.csv() == "a,b\r\n");
}

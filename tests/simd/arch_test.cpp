#include <mox/simd/arch.hpp>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("simd: a register holds half as many doubles as floats", "[simd][arch]") {
    CHECK(simd::lanes<float> == 2 * simd::lanes<double>);
    CHECK(simd::lanes<float> * 4 <= 64);
    CHECK((simd::registers<> == 16 || simd::registers<> == 32));
#if defined(__AVX512F__)
    CHECK(simd::lanes<float> == 16);
    CHECK(simd::registers<> == 32);
#endif
}

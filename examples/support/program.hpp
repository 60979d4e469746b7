#pragma once

// How a program ends: what `run` returns, or one sentence for what went wrong.

#include <cstdio>
#include <exception>

#include "errors.hpp"

namespace support {

/// run() gives the exit status. Failures of the surroundings end with 2 and their sentence, others with 3.
template <class Run>
int run_program(const char* name, Run&& run) {
    const auto say = [name](const std::exception& e) {
        std::fprintf(stderr, "%s: %s\n", name, e.what());
        return 2;
    };
    try {
        return run();
    } catch (const usage_error& e) {
        return say(e);
    } catch (const input_error& e) {
        return say(e);
    } catch (const output_error& e) {
        return say(e);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s: unexpected: %s\n", name, e.what());
        return 3;
    }
}

}  // namespace support

#pragma once

// A benchmark is a group of competitors doing the same work. The table shows each as a share of the machine's
// limit and against the other competitors; all of them and the limit take turns in one process, and only
// neighbours in time are compared (rounds.hpp), because a shared machine changes its speed all the time.

#include <functional>
#include <string>
#include <vector>

namespace bench {

/// What bounds the work of a group (support/limits.hpp measures it).
enum class limit {
    none,
    fma_f32,         ///< f32 operations a second of one core
    dot_bf16,        ///< bf16 operations a second of one core's dot products
    dot_int8,        ///< int8 operations a second of one core's dot products
    read_bandwidth,  ///< bytes a second one core reads from memory
    copy_bandwidth,  ///< bytes a second one core reads and writes
    add_bandwidth,   ///< the same where it reads twice what it writes
};

struct competitor {
    std::string who;                               ///< "mox" or the peer's name
    std::function<std::function<void()>()> setup;  ///< called once before measuring; returns one repetition
    double work = 0;                               ///< where it does other work than the group says
    int threads = 1;                               ///< cores it keeps busy
};

/// What mox must reach. Zero: no goal.
struct goal {
    double of_limit = 0;  ///< share of the limit, of the competitor named below or, without a name, of mox
    double against = 0;   ///< times as fast as the peer named below
    std::string peer;
    double at_most = 0;   ///< the share of the peer's time that mox may take, where less work is the point
    double at_least = 0;  ///< the share of the peer's time that mox takes at least, where the peer is mox
                          ///< itself with more threads
};

struct group {
    std::string name;          ///< "moe_swiglu/forward/T512_D512_H1024_E8_k2"
    double work = 0;           ///< useful operations of one repetition, or bytes, whichever the limit counts
    limit kind = limit::none;  ///< of as many cores as a competitor uses
    std::vector<goal> goals;
    std::vector<competitor> competitors;
};

/// All groups; sources add theirs before main with `registration`.
std::vector<group>& groups();

struct registration {
    explicit registration(void (*add)(std::vector<group>&)) { add(groups()); }
};

/// Adds competitors to a group of another source file, when it exists.
void add_competitor(const std::string& group_name, competitor c);

}  // namespace bench

#pragma once

// Which cores this process may use. A launcher, or a library that binds threads, can leave a program with one
// of them: rows with two threads would then measure nothing.

#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace bench {

/// The cores that the calling thread, and threads it starts from here on, may run on.
class allowed_cores {
public:
    allowed_cores() {
#if defined(__linux__)
        known = sched_getaffinity(0, sizeof set, &set) == 0;
#endif
    }
    int count() const {
#if defined(__linux__)
        if (known) return CPU_COUNT(&set);
#endif
        return static_cast<int>(std::thread::hardware_concurrency());
    }
    /// Takes back what somebody else has changed; returns whether there was anything to take back.
    bool restore() const {
#if defined(__linux__)
        const allowed_cores now;
        if (known && now.known && !CPU_EQUAL(&set, &now.set))
            return sched_setaffinity(0, sizeof set, &set) == 0;
#endif
        return false;
    }

private:
#if defined(__linux__)
    cpu_set_t set{};
    bool known = false;
#endif
};

}  // namespace bench

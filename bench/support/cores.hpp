#pragma once

// Which cores this process may use, and one core for each thread that is measured. A launcher, or a library
// that binds threads, can leave a program with one core. And on a busy machine the system wakes a worker on
// the core of the thread that waits for it, and leaves it there: both then share one core, in whole runs,
// while another pool of the same process has two.

#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace bench {

/// The threads of this process, by the system's numbers; none where they are not known.
inline std::set<int> threads_now() {
    std::set<int> all;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", none))
        all.insert(std::stoi(entry.path().filename().string()));
    return all;
}

/// The cores that the calling thread, and threads it starts from here on, may run on.
class allowed_cores {
public:
    allowed_cores() {
#if defined(__linux__)
        known = sched_getaffinity(0, sizeof set, &set) == 0;
        for (int core = 0; known && core < CPU_SETSIZE; ++core) {
            if (CPU_ISSET(core, &set)) numbers.push_back(core);
        }
#endif
    }
    int count() const {
        return numbers.empty() ? static_cast<int>(std::thread::hardware_concurrency())
                               : static_cast<int>(numbers.size());
    }
    /// Gives the calling thread all cores; returns whether somebody had taken some away.
    bool restore() const {
#if defined(__linux__)
        const allowed_cores now;
        if (known && now.known && !CPU_EQUAL(&set, &now.set))
            return sched_setaffinity(0, sizeof set, &set) == 0;
#endif
        return false;
    }
    /// Leaves a thread (0: the caller) one of the cores.
    void bind(int thread, std::size_t which) const {
#if defined(__linux__)
        if (numbers.empty()) return;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(static_cast<std::size_t>(numbers[which % numbers.size()]), &one);
        sched_setaffinity(thread, sizeof one, &one);
#else
        (void)thread, (void)which;
#endif
    }
    /// Gives the threads that were not there before a core each, the first core left to the caller.
    void spread(const std::set<int>& before) const {
        std::size_t which = 0;
        for (const int thread : threads_now()) {
            if (!before.contains(thread)) bind(thread, ++which);
        }
    }

private:
    std::vector<int> numbers;
#if defined(__linux__)
    cpu_set_t set{};
    bool known = false;
#endif
};

}  // namespace bench

#!/bin/sh
# Installs what is missing to build mox, and says so. Usage: install_packages.sh [build] [png] [test] [bench] [peers] [arm64] [ci]
# peers: libraries that the benchmarks compare mox with when they are there (bench/README.md).
set -eu

wanted=""
want() { # command-or-file package
    case $1 in
        /*) for f in $1; do [ -e "$f" ] && return 0; done ;;
        *) command -v "$1" >/dev/null 2>&1 && return 0 ;;
    esac
    wanted="$wanted $2"
}

# A header anywhere the compiler or CMake looks.
want_header() { # header package
    for dir in /usr/include /usr/local/include /opt/homebrew/include; do
        [ -e "$dir/$1" ] && return 0
    done
    wanted="$wanted $2"
}

cmake_is_new() {
    command -v cmake >/dev/null 2>&1 || return 1
    version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    set -- $version
    [ "${1:-0}" -gt 3 ] || { [ "${1:-0}" -eq 3 ] && [ "${2:-0}" -ge 25 ]; }
}

for group in "$@"; do
    case $group in
        build)
            want g++ g++
            cmake_is_new || wanted="$wanted cmake"
            want ninja ninja-build
            want_header eigen3/Eigen/Core libeigen3-dev
            want_header xsimd/xsimd.hpp libxsimd-dev
            ;;
        png) want_header png.h libpng-dev ;;
        test)
            want_header catch2 catch2
            want_header nlohmann/json.hpp nlohmann-json3-dev
            want git git
            ;;
        bench) want_header benchmark/benchmark.h libbenchmark-dev ;;
        peers)
            want "/usr/lib/*/openblas*/cmake/openblas/OpenBLASConfig.cmake" libopenblas-dev
            want_header oneapi/dnnl/dnnl.hpp libdnnl-dev
            ;;
        arm64)
            want aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
            want qemu-aarch64 qemu-user
            ;;
        ci)
            want clang++ clang
            # The sanitizers' runtime.
            want "/usr/lib/llvm-*/lib/clang/*/lib/*/libclang_rt.asan*.a" libclang-rt-dev
            want clang-format clang-format
            ;;
        *) echo "install_packages.sh: unknown group '$group'" >&2; exit 2 ;;
    esac
done

[ -n "$wanted" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "mox needs these packages (names of Debian; install what your system calls them):$wanted" >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "mox needs these packages, and neither root nor sudo is at hand:$wanted" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "mox: installing$wanted"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q >/dev/null
# shellcheck disable=SC2086
$sudo apt-get install -y -q --no-install-recommends $wanted >/dev/null
if ! cmake_is_new; then
    echo "mox needs CMake 3.25 or newer; this system's package is older" >&2
    exit 1
fi

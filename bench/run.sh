#!/bin/sh
# Installs what is missing, builds and runs the benchmarks: run.sh [FILTER] [--check] [--json FILE]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/cmake/install_packages.sh" build bench
(cd "$root" && cmake --preset bench >/dev/null && cmake --build --preset bench)
exec "$root/build/bench/bench/mox_bench" --json "$root/build/bench/results.json" "$@"

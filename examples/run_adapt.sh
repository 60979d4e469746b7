#!/bin/sh
# Installs what is missing, builds for this machine, runs the demonstration of low-rank adaptation:
# run_adapt.sh [BASE TEXT_1 TEXT_2] [OPTIONS]; see --help.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/cmake/install_packages.sh" build
(cd "$root" && cmake --preset examples >/dev/null && cmake --build --preset examples --target adapt)
exec "$root/build/examples/examples/adapt" "$@"

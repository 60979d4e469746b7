#!/bin/sh
# Installs what is missing, builds and runs every test.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/cmake/install_packages.sh" build test
cd "$root"
cmake --preset release >/dev/null
cmake --build --preset release
exec ctest --preset release

#!/bin/sh
# Installs what is missing, builds for this machine, runs the experiment with mixture of depths on images:
# run_vision.sh [DIR with MNIST's files] [OPTIONS]; see --help.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/cmake/install_packages.sh" build png
(cd "$root" && cmake --preset examples >/dev/null && cmake --build --preset examples --target vision_transformer)
exec "$root/build/examples/examples/vision_transformer" "$@"

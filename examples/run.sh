#!/bin/sh
# Installs what is missing, builds for this machine, runs the main job. All arguments go to it; see --help.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/cmake/install_packages.sh" build
(cd "$root" && cmake --preset examples >/dev/null && cmake --build --preset examples --target language_model)
exec "$root/build/examples/examples/language_model" "$@"

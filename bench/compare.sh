#!/bin/sh
# Is the work in this commit slower than in that one?
#   compare.sh BASE [HEAD] [FILTER] [--rounds N]
# Builds the benchmarks of both commits (HEAD: the last one) in temporary work trees, runs those whose group
# matches FILTER in alternation, N times each (7), and prints how long the second takes in units of the first.
# Exits with 1 when a benchmark has become slower in nearly every round (the rule is in compare.awk).
# Programs are kept in build/compare: a commit is built once.
set -eu
usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
root=$(cd "$(dirname "$0")/.." && pwd)
rounds=7 base="" head="" filter='.*'
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) [ $# -gt 1 ] || usage; rounds=$2; shift ;;
        -*) usage ;;
        *) if [ -z "$base" ]; then base=$1; elif [ -z "$head" ]; then head=$1; else filter=$1; fi ;;
    esac
    shift
done
[ -n "$base" ] || usage
: "${head:=HEAD}"
for commit in "$base" "$head"; do
    git -C "$root" rev-parse --verify --quiet "$commit^{commit}" >/dev/null ||
        { echo "compare.sh: '$commit' is not a commit" >&2; exit 2; }
done
sh "$root/cmake/install_packages.sh" build bench

work=$(mktemp -d)
clean() {
    git -C "$root" worktree remove --force "$work/tree" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
compiler=$("${CXX:-c++}" --version | cksum | cut -d' ' -f1)

# Leaves the program of a commit in $program. mox alone is compared: peers are left out.
build() {
    hash=$(git -C "$root" rev-parse "$1^{commit}")
    program=$root/build/compare/$hash.$compiler
    [ ! -x "$program" ] || return 0
    echo "building $1"
    git -C "$root" worktree add --quiet --detach "$work/tree" "$hash"
    (
        cd "$work/tree"
        cmake --preset bench -DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON -DCMAKE_DISABLE_FIND_PACKAGE_OpenBLAS=ON \
            -DCMAKE_DISABLE_FIND_PACKAGE_dnnl=ON && cmake --build --preset bench --target mox_bench
    ) >"$work/log" 2>&1 || { cat "$work/log" >&2; echo "compare.sh: $1 does not build" >&2; exit 2; }
    mkdir -p "$root/build/compare"
    cp "$work/tree/build/bench/bench/mox_bench" "$program"
    git -C "$root" worktree remove --force "$work/tree"
}
build "$base"
base_program=$program
build "$head"
head_program=$program

round=1
while [ $round -le "$rounds" ]; do
    echo "round $round of $rounds"
    # Who goes first changes, so that what warms up or tires in a round falls on both.
    [ $((round % 2)) -eq 1 ] && order="base head" || order="head base"
    for side in $order; do
        [ $side = base ] && program=$base_program || program=$head_program
        "$program" "$filter" --repetitions 3 --json "$work/$side.$round.json" >"$work/log" 2>&1 ||
            { cat "$work/log" >&2; echo "compare.sh: the benchmarks of $side failed" >&2; exit 2; }
    done
    round=$((round + 1))
done
awk -f "$root/bench/compare.awk" "$work"/base.*.json "$work"/head.*.json

#!/bin/sh
# Is the work in this commit slower than in that one?
#   compare.sh BASE [HEAD] [FILTER] [--rounds N]
# Builds the benchmarks of both commits (HEAD: the last one) in temporary work trees, runs those whose group
# matches FILTER in alternation, N times each (5), and prints how long the second takes in units of the first.
# Exits with 1 when a benchmark has become slower than the noise explains (the rule is in compare.awk).
set -eu
usage() {
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
root=$(cd "$(dirname "$0")/.." && pwd)
rounds=5 base="" head="" filter='.*'
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
    for side in base head; do git -C "$root" worktree remove --force "$work/$side" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
for side in base head; do
    [ $side = base ] && commit=$base || commit=$head
    git -C "$root" worktree add --quiet --detach "$work/$side" "$commit"
    echo "building $commit"
    (cd "$work/$side" && cmake --preset bench >/dev/null && cmake --build --preset bench >/dev/null)
done
round=1
while [ $round -le "$rounds" ]; do
    echo "round $round of $rounds"
    # Who goes first changes, so that what warms up or tires in a round falls on both.
    [ $((round % 2)) -eq 1 ] && order="base head" || order="head base"
    for side in $order; do
        "$work/$side/build/bench/bench/mox_bench" "$filter" --repetitions 3 --json "$work/$side.$round.json" >/dev/null 2>&1 ||
            { echo "compare.sh: the benchmarks of $side failed; does '$filter' match any?" >&2; exit 2; }
    done
    round=$((round + 1))
done
awk -f "$root/bench/compare.awk" "$work"/base.*.json "$work"/head.*.json

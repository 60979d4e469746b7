#!/bin/sh
# The arithmetic of bench/compare.sh on made-up runs: check.sh AWK COMPARE_AWK
set -eu
awk=$1 compare=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

runs() { # side, then one time per round
    side=$1
    shift
    round=0
    for t in "$@"; do
        round=$((round + 1))
        printf '[\n  {"name": "a/mox", "of_limit": 0, "seconds": [%s, 9]},\n  {"name": "b/mox", "of_limit": 0.5, "seconds": [9, 2.0]}\n]\n' "$t" >"$dir/$side.$round.json"
    done
}
expect() { # exit code, what for
    code=0
    "$awk" -f "$compare" "$dir"/base.*.json "$dir"/head.*.json >"$dir/out" || code=$?
    [ "$code" -eq "$1" ] || { echo "$2: exit code $code, expected $1"; cat "$dir/out"; exit 1; }
}
runs base 1.00 1.01 1.02
runs head 1.00 1.01 1.02
expect 0 "the same times"
runs head 1.20 1.21 1.22
expect 1 "a fifth slower"
grep -q '^a/mox .*1\.198 .*SLOWER' "$dir/out" || { cat "$dir/out"; exit 1; }
grep -q '^b/mox .*1\.000' "$dir/out" || { cat "$dir/out"; exit 1; }
runs base 1.00 1.30 1.40
expect 0 "a fifth slower, in noise of a third"
runs head 0.50 0.50 0.50
expect 0 "faster"

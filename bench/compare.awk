# Reads what mox_bench --json wrote, files named base.N.json and head.N.json (one benchmark a line), and prints a
# table: the time of head in units of base's, from the medians of the rounds. Where a benchmark has a limit, its time
# is counted in units of the limit's beside it in the same run, so that the machine's own speed cancels; else in
# seconds, a round's fastest repetition. The noise is measured: the larger of the two spreads between rounds of one
# commit (from the fastest to the median), at least 2 %. Slower by more than twice the noise, and in the fastest
# rounds too, fails.

function sorted(values, n,   i, j, t) {
    for (i = 2; i <= n; ++i) {
        t = values[i]
        for (j = i - 1; j > 0 && values[j] > t; --j) values[j + 1] = values[j]
        values[j + 1] = t
    }
}

FNR == 1 { side = FILENAME ~ /base\.[0-9]+\.json$/ ? "base" : "head" }

/"name":/ {
    match($0, /"name": "[^"]*"/)
    name = substr($0, RSTART + 9, RLENGTH - 10)
    share = match($0, /"of_limit": [0-9.e+-]+/) ? substr($0, RSTART + 12, RLENGTH - 12) + 0 : 0
    match($0, /\[[^]]*\]/)
    split(substr($0, RSTART + 1, RLENGTH - 2), all, ", ")
    best = all[1] + 0
    for (i in all) if (all[i] + 0 < best) best = all[i] + 0
    if (!(name in known)) {
        known[name] = 1
        order[++names] = name
    }
    time[name, side, ++rounds[name, side]] = best
    if (share > 0) relative[name, side, rounds[name, side]] = 1 / share
    else unlimited[name] = 1
}

function summary(name, side,   i, n, values) {
    n = rounds[name, side]
    for (i = 1; i <= n; ++i) values[i] = name in unlimited ? time[name, side, i] : relative[name, side, i]
    sorted(values, n)
    fastest[side] = values[1]
    median[side] = values[int((n + 1) / 2)]
    spread[side] = median[side] / fastest[side] - 1
}

END {
    printf "%-70s %10s %8s\n", "benchmark", "head/base", "noise"
    for (k = 1; k <= names; ++k) {
        name = order[k]
        if (!rounds[name, "base"] || !rounds[name, "head"]) {
            printf "%-70s only in %s\n", name, rounds[name, "base"] ? "base" : "head"
            continue
        }
        summary(name, "base")
        summary(name, "head")
        noise = spread["base"] > spread["head"] ? spread["base"] : spread["head"]
        if (noise < 0.02) noise = 0.02
        ratio = median["head"] / median["base"]
        slower = ratio > 1 + 2 * noise && fastest["head"] / fastest["base"] > 1 + noise
        printf "%-70s %10.3f %7.1f%% %s\n", name, ratio, 100 * noise, slower ? "SLOWER" : ""
        if (slower) ++bad
    }
    if (names == 0) {
        print "no benchmark in the files"
        exit 2
    }
    if (bad) printf "%d of %d slower\n", bad, names
    exit bad > 0
}

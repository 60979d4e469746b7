# Reads what mox_bench --json wrote, files named base.N.json and head.N.json (one benchmark a line), and prints a
# table: the time of head in units of base's. Round N of head is divided by round N of base, its neighbour in time;
# the median of these ratios stands before their quartiles. Where a benchmark has a limit, its time is counted in
# units of the limit's beside it in the same run, so that the machine's own speed cancels; else in seconds, a round's
# fastest repetition. Slower is what has a median above 1.04 and its lower quartile above 1.02: of seven rounds at
# least six were slower, which noise alone does to one benchmark in sixteen at worst.

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

function cost(name, side, i) {
    return name in unlimited ? time[name, side, i] : relative[name, side, i]
}

END {
    printf "%-70s %10s\n", "benchmark", "head/base"
    for (k = 1; k <= names; ++k) {
        name = order[k]
        n = rounds[name, "base"]
        if (!n || n != rounds[name, "head"]) {
            printf "%-70s not in %s\n", name, n ? "every round of head" : "base"
            continue
        }
        for (i = 1; i <= n; ++i) ratio[i] = cost(name, "head", i) / cost(name, "base", i)
        sorted(ratio, n)
        median = (ratio[int((n + 1) / 2)] + ratio[int((n + 2) / 2)]) / 2
        low = ratio[int((n + 3) / 4)]
        slower = median > 1.04 && low > 1.02
        printf "%-70s %10.3f [%.3f %.3f] %s\n", name, median, low, ratio[n + 1 - int((n + 3) / 4)],
            slower ? "SLOWER" : ""
        if (slower) ++bad
    }
    if (names == 0) {
        print "no benchmark in the files"
        exit 2
    }
    if (bad) printf "%d of %d slower\n", bad, names
    exit bad > 0
}

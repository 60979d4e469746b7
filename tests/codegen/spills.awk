# Reads `objdump -d -C --no-show-raw-insn`, that of binutils or of LLVM, and looks at the loops of the register tiles:
# the innermost loops with many fused multiply-adds. Accumulators that lie on the stack there cost half the speed. Fails
# when there is more than one access for twelve multiply-adds (GCC 12 keeps 30 of the 31 registers of a tile of 5 x 5
# dot products), or when fewer tiles than `tiles` have such a loop.

function fused_in(from, to,   j, n) {
    n = 0
    for (j = from; j <= to; ++j) if (text[j] ~ /vfn?m(add|sub)[0-9]*ps/) ++n
    return n
}

# The first line of the loop that line i closes, or 0.
function loop_start(i) { return (i in jump) && (jump[i] in line) && line[jump[i]] < i ? line[jump[i]] : 0 }

function look(   i, j, start, fused, spilled, inner, found, verdict) {
    if (name == "") return
    for (i = 1; i <= count; ++i) {
        start = loop_start(i)
        if (!start) continue
        fused = fused_in(start, i)
        if (fused < 8) continue
        inner = 1
        for (j = start; j < i; ++j) {
            if (loop_start(j) >= start && fused_in(loop_start(j), j) >= 8) inner = 0
        }
        if (!inner) continue
        spilled = 0
        for (j = start; j <= i; ++j) if (text[j] ~ /%[xyz]mm/ && text[j] ~ /\(%rsp/) ++spilled
        found = 1
        verdict = ""
        if (spilled * 12 > fused) verdict = ": too many"
        printf "%s: loop of %d fused multiply-adds, %d accesses to the stack%s\n", name, fused, spilled, verdict
        if (verdict != "") bad = 1
    }
    if (found) ++seen
}

/^[0-9a-f]+ <.*>:$/ {
    look()
    name = ""
    count = 0
    split("", line); split("", jump); split("", text)
    if (match($0, /tile_(product|product_ahead|transposed|outer)</)) {
        name = substr($0, RSTART, RLENGTH - 1)
    }
    next
}

name != "" && /^ +[0-9a-f]+:/ {
    ++count
    address = $1
    sub(":", "", address)
    line[address] = count
    text[count] = $0
    if ($2 ~ /^j/) {
        target = $3
        sub(/^0x/, "", target)
        jump[count] = target
    }
}

END {
    look()
    if (seen < tiles) {
        printf "found loops in %d tiles of %d\n", seen, tiles
        bad = 1
    }
    exit bad
}

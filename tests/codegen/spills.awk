# Reads `objdump -d -C --no-show-raw-insn`, that of binutils or of LLVM, and looks at the loops of the register tiles:
# the innermost loops with many products that are added to accumulators. Accumulators or operands that lie on the stack
# there cost up to half the speed. A tile is spilled when a loop of it has more than one access to the stack for eight
# products: of a tile of 5 x 5 dot products GCC 12 keeps 30 of the 31 registers, which are 12 accesses for 100 products
# and 86 % of the peak, where Clang keeps all and reaches 91 %.
#   tiles    how many tiles must have such a loop
#   spilled  how many of them must be spilled: 0 but for the guard's own test

function products(text) { return text ~ /vfn?m(add|sub)[0-9]*ps|vdpbf16ps|vpdpbusd/ }

# Marks the lines from `first` on that are reached from it without leaving [first, last].
function reach(first, last, marks,   todo, n, i, next_line, t) {
    split("", marks); split("", todo)
    todo[n = 1] = first
    marks[first]
    while (n > 0) {
        i = todo[n--]
        t = target_line(i)
        if (t >= first && t <= last && !(t in marks)) { marks[t]; todo[++n] = t }
        next_line = i + 1
        if (!(i in ends) && next_line <= last && !(next_line in marks)) { marks[next_line]; todo[++n] = next_line }
    }
}
function target_line(i) { return (i in jump) && (jump[i] in line) ? line[jump[i]] : 0 }

# The loop that the jump at line `last` closes: its products if it is one that counts, else 0; its lines in
# body[last, ...]. A jump back that is not reached from where it leads to closes no loop: compilers put rare paths
# behind the rest of a function.
function loop_of(last,   first, forward, i, n, back, changed) {
    first = target_line(last)
    if (!first || first >= last) return 0
    reach(first, last, forward)
    if (!(last in forward)) return 0
    # Of the lines reached, those from which the jump is reached.
    split("", back)
    back[last]
    do {
        changed = 0
        for (i = last; i >= first; --i) {
            if ((i in back) || !(i in forward)) continue
            if ((!(i in ends) && ((i + 1) in back)) || (target_line(i) in back)) { back[i]; changed = 1 }
        }
    } while (changed)
    n = 0
    for (i in back) {
        body[last, i]
        if (products(text[i])) ++n
    }
    if (n < 6) return 0
    size[last] = 0
    for (i in back) ++size[last]
    return n
}

function contains(outer, inner,   i) {
    for (i = target_line(inner); i <= inner; ++i) if (((inner, i) in body) && !((outer, i) in body)) return 0
    return size[outer] > size[inner]
}

function on_stack(s) { return s ~ /%[xyz]mm/ && (s ~ /\(%rsp/ || (frame && s ~ /\(%rbp/)) }

function look(   i, j, inner, saved, verdict, spills, found) {
    if (name == "") return
    split("", body); split("", size); split("", fused)
    for (i = 1; i <= count; ++i) fused[i] = loop_of(i)
    for (i = 1; i <= count; ++i) {
        inner = fused[i] > 0
        for (j = 1; j <= count && inner; ++j) if (fused[j] > 0 && contains(i, j)) inner = 0
        if (!inner) continue
        found = 1
        saved = 0
        for (j = target_line(i); j <= i; ++j) if (((i, j) in body) && on_stack(text[j])) ++saved
        verdict = ""
        if (saved * 8 > fused[i]) { verdict = ": too many"; spills = 1 }
        printf "%s: loop of %d products, %d accesses to the stack%s\n", name, fused[i], saved, verdict
    }
    if (found) ++seen
    if (spills) ++bad
}

/^[0-9a-f]+ <.*>:$/ {
    look()
    name = ""
    count = frame = 0
    split("", line); split("", jump); split("", text); split("", ends)
    if (match($0, /tile_[a-z0-9_]+</)) name = substr($0, RSTART, RLENGTH - 1)
    next
}

name != "" && /^ +[0-9a-f]+:/ {
    ++count
    address = $1
    sub(":", "", address)
    line[address] = count
    text[count] = $0
    if ($2 ~ /^j/) {
        to = $3
        sub(/^0x/, "", to)
        jump[count] = to
    }
    if ($2 ~ /^(jmpq?|retq?)$/) ends[count]
    if ($0 ~ /movq? +%rsp, *%rbp/) frame = 1
}

END {
    look()
    printf "%d tiles, %d spilled\n", seen, bad
    if (seen < tiles) printf "expected at least %d tiles with loops\n", tiles
    if (bad != spilled) printf "expected %d spilled\n", spilled
    exit seen < tiles || bad != spilled
}

#!/bin/sh
# tests/abi/layout.c names every struct, field and constant that hymba.h declares, and nothing else.

. tests/support/script.sh

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
LC_ALL=C
export LC_ALL

awk -f tests/abi/declared.awk include/hymba.h > "$work/header"
sed -nE -e 's/^    STRUCT\((\w+), [0-9]+\),$/struct \1/p' \
    -e 's/^    FIELD\((\w+), (\w+), [0-9]+, [0-9]+\),$/field \1 \2/p' \
    -e 's/^    CONSTANT\((\w+), -?[0-9]+\),$/constant \1/p' tests/abi/layout.c > "$work/layout"

# In the same order, too, so that a field can be added only where hymba.h has it.
for kind in struct field constant; do
    grep "^$kind " "$work/header" > "$work/declared"
    grep "^$kind " "$work/layout" > "$work/written"
    if [ ! -s "$work/declared" ]; then
        fail "each $kind of hymba.h" "none found"
    elif difference=$(diff "$work/declared" "$work/written"); then
        pass "each $kind of hymba.h stands in tests/abi/layout.c"
    else
        fail "each $kind of hymba.h" "they differ (< hymba.h, > tests/abi/layout.c)"
        echo "$difference" | grep '^[<>]'
    fi
done

# The reader of hymba.h finds a struct by its body: as many as the header has.
bodies=$(grep -cE '^typedef struct [a-z_]+ \{' include/hymba.h)
found=$(grep -c '^struct ' "$work/header")
if [ "$bodies" -eq "$found" ]; then
    pass "all struct bodies are read"
else
    fail "all struct bodies are read" "hymba.h has $bodies, read were $found"
fi

finish

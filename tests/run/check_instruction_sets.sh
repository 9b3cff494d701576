#!/bin/sh
# The command with the demo model continues a text with the same tokens on every instruction set the
# machine has, as on generic C.

. tests/support/script.sh

# continuation INSTRUCTION-SET: the text on standard output, the error line on standard error.
continuation() {
    $HYMBA_WRAPPER "$HYMBA_COMMAND" generate -p "Once upon a time" -n 5 --temp 0 --compute f32 \
        --threads 2 --cpu "$1"
}

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

if continuation generic > "$work/generic" 2> "$work/errors" && [ -s "$work/generic" ]; then
    pass "generic C writes text"
else
    fail "generic C writes text" "$(cat "$work/errors")"
fi
for name in avx2 avx512 amx neon; do
    if continuation $name > "$work/$name" 2> "$work/errors"; then
        expect "$name writes the same" cmp "$work/generic" "$work/$name"
    elif grep -q 'lacks it' "$work/errors"; then
        : # of another machine
    else
        fail "$name writes the same" "$(cat "$work/errors")"
    fi
done
finish

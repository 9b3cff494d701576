#!/bin/sh
# The tables of docs/roofline.md are those that bench/roofline.c prints, but for the last column,
# which is filled in by measurements.

. tests/support/script.sh

CC=${CC:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

without_last_column() {
    sed 's/|[^|]*|$/|/' "$1"
}

expect "it compiles without a warning" $CC -std=c11 -Wall -Wextra -Wpedantic -Werror $HYMBA_FLAGS \
    -Iinclude -o "$work/roofline" bench/roofline.c -L"$HYMBA_BUILD" -lhymba
LD_LIBRARY_PATH=$HYMBA_BUILD "$work/roofline" > "$work/output"
status=$?
without_last_column "$work/output" > "$work/printed"
without_last_column docs/roofline.md > "$work/document"
if [ $status -ne 0 ] || [ "$(wc -l < "$work/printed")" -lt 100 ]; then
    fail "it prints its tables" "status $status, $(wc -l < "$work/printed") lines"
elif missing=$(grep -Fxv -f "$work/document" "$work/printed"); then
    fail "the document has them" "missing: $missing"
else
    pass "the document has them"
fi
LD_LIBRARY_PATH=$HYMBA_BUILD expect "other shapes" "$work/roofline" 125m
finish

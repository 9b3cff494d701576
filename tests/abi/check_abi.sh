#!/bin/sh
# The functions have the binary interface that lib/libhymba.abi describes, to the last type of a
# field. After a change that is wanted (docs/abi.md): make abi-baseline.

. tests/support/script.sh

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
LC_ALL=C
export LC_ALL
baseline=lib/libhymba.abi

# same NAME: the files "header" and "described" are equal.
same() {
    if [ ! -s "$work/header" ]; then
        fail "$1" "none found"
    elif difference=$(diff "$work/header" "$work/described"); then
        pass "$1"
    else
        fail "$1" "they differ (< hymba.h, > $baseline)"
        echo "$difference" | grep '^[<>]'
    fi
}

tests/abi/exports.sh > "$work/header"
sed -n "s/.*<function-decl name='\([^']*\)'.* elf-symbol-id=.*/\1/p" "$baseline" |
    sort > "$work/described"
same "the baseline describes every function of hymba.h"

awk -f tests/abi/declared.awk include/hymba.h | sed -n 's/^struct //p' | sort > "$work/header"
sed -n "s/.*<class-decl name='\([^']*\)' size-in-bits=.*/\1/p" "$baseline" |
    sort -u > "$work/described"
same "the baseline describes every struct of hymba.h, and no other"

if found=$(grep -n "'[^']*/[^']*'" "$baseline" | grep -v "path='lib/[a-z_]*\.c'"); then
    fail "the baseline names no place of a machine" "$found"
else
    pass "the baseline names no place of a machine"
fi

# Other compilers and machines describe the same types in ways that would be reported as changes.
comparison="the interface is that of the baseline"
if ! command -v abidw > /dev/null 2>&1 || ! command -v abidiff > /dev/null 2>&1; then
    skip "$comparison" "no libabigail here (Debian: abigail-tools)"
elif ! command -v "${HYMBA_GCC:-gcc}" > /dev/null 2>&1; then
    skip "$comparison" "no gcc here"
elif ! ${HYMBA_GCC:-gcc} -dumpmachine | grep -q '^x86_64-.*-gnu$'; then
    skip "$comparison" "the baseline is of x86_64"
elif ! sh tests/abi/baseline.sh > "$work/now.abi" 2> "$work/errors"; then
    fail "$comparison" "it cannot be read: $(cat "$work/errors")"
elif abidiff --no-default-suppression --harmless "$baseline" "$work/now.abi" \
    > "$work/report" 2>&1; then
    pass "$comparison"
else
    fail "$comparison" "status $?; docs/abi.md says what to do about changes:"
    cat "$work/report"
fi

finish

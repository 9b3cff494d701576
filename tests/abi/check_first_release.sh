#!/bin/sh
# A program compiled with the header of the first release (tests/abi/first) runs with the library of
# today, and compiles with the header of today without a warning.
#
# The header is a copy: cp include/hymba.h tests/abi/first/hymba.h
# Until 0.1.0 is out it is renewed whenever hymba.h changes; from then on it is frozen, and so is
# the program, which then shows whether old programs still run.

. tests/support/script.sh

CC=${CC:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
LC_ALL=C
LD_LIBRARY_PATH=$HYMBA_BUILD${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LC_ALL LD_LIBRARY_PATH
first=tests/abi/first
program=$first/every_function.c
warnings="-Wall -Wextra -Wpedantic -Werror"

HYMBA_HEADER=$first/hymba.h tests/abi/exports.sh > "$work/functions"
awk -f tests/abi/declared.awk $first/hymba.h | sed -n 's/^struct //p' > "$work/structs"
for kind in functions structs; do
    missing=$(while read -r name; do
        grep -qw "$name" $program || echo "$name"
    done < "$work/$kind")
    if [ ! -s "$work/$kind" ]; then
        fail "the program uses all $kind" "none found"
    elif [ -n "$missing" ]; then
        fail "the program uses all $kind" "not used: $missing"
    else
        pass "the program uses all $kind of the first release"
    fi
done

# compile HEADER-FOLDER OUTPUT
compile() {
    $CC -std=c11 -D_XOPEN_SOURCE=700 $warnings $HYMBA_FLAGS -I"$1" -o "$2" $program \
        -L"$HYMBA_BUILD" -lhymba -lm
}
expect "it compiles with the first header" compile $first "$work/first"
mkdir "$work/made" "$work/made_now"
# Every name is looked up at the start, not when it is first called.
expect "it runs with the library of today" env LD_BIND_NOW=1 "$work/first" examples/demo \
    "$work/made"
expect "it compiles with the header of today" compile include "$work/now"
expect "that runs, too" "$work/now" examples/demo "$work/made_now"

finish

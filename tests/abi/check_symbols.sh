#!/bin/sh
# hymba.h, lib/symbols.txt, lib/hymba.map, the shared library and the static archive must name the
# same functions, in every direction.

. tests/support/script.sh

NM=${NM:-nm}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
abi=$(sed -n 's/^.define HYMBA_ABI //p' include/hymba.h)

tests/abi/exports.sh > "$work/header"
cut -d' ' -f1 lib/symbols.txt | LC_ALL=C sort > "$work/ledger"
sed -n 's/^ *\(hymba_[a-z0-9_]*\);$/\1/p' lib/hymba.map | LC_ALL=C sort > "$work/map"
# The version node is itself a symbol, of type A.
$NM -D --defined-only "$HYMBA_BUILD/libhymba.so.$abi" | awk '$2 != "A" { print $3 }' |
    sed 's/@.*//' | LC_ALL=C sort > "$work/shared"
$NM -g --defined-only "$HYMBA_BUILD/libhymba.a" 2> /dev/null | awk 'NF == 3 { print $3 }' |
    LC_ALL=C sort > "$work/static"

same() {
    if [ ! -s "$work/$1" ] || [ ! -s "$work/$2" ]; then
        fail "$3" "no names found"
    elif difference=$(diff "$work/$1" "$work/$2"); then
        pass "$3"
    else
        fail "$3" "they differ (< the first alone, > the second alone)"
        echo "$difference" | grep '^[<>]'
    fi
}

same header ledger "hymba.h and lib/symbols.txt"
same header map "hymba.h and lib/hymba.map"
same header shared "hymba.h and the shared library"
same header static "hymba.h and the static archive"

if LC_ALL=C sort -c lib/symbols.txt 2> /dev/null &&
    ! grep -v '^hymba_[a-z0-9_]* [0-9]*\.[0-9]*\.[0-9]*$' lib/symbols.txt; then
    pass "lib/symbols.txt is sorted, a name and a version a line"
else
    fail "lib/symbols.txt" "not sorted, or a line is not \"name version\""
fi

# Every name carries the version node of its ABI.
if $NM -D --defined-only "$HYMBA_BUILD/libhymba.so.$abi" | awk '$2 != "A" { print $3 }' |
    grep -v "@@HYMBA_$abi"; then
    fail "symbol versions" "a name is outside node HYMBA_$abi"
else
    pass "symbol versions"
fi

soname=$(${OBJDUMP:-objdump} -p "$HYMBA_BUILD/libhymba.so.$abi" | awk '$1 == "SONAME" { print $2 }')
if [ "$soname" = "libhymba.so.$abi" ]; then
    pass "soname"
else
    fail "soname" "found \"$soname\", expected libhymba.so.$abi"
fi

finish

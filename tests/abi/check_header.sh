#!/bin/sh
# hymba.h compiled alone in every language it promises, by every compiler that is here, without a
# warning.

. tests/support/script.sh

CC=${CC:-cc}
CXX=${CXX:-c++}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
# Twice, as a program's headers may come to do.
printf '#include "hymba.h"\n#include "hymba.h"\n' > "$work/alone.c"
cp "$work/alone.c" "$work/alone.cc"
: > "$work/empty.c"
: > "$work/empty.cc"
warnings="-Wall -Wextra -Wpedantic -Wundef -Werror -fsyntax-only -Iinclude"

# try COMPILER STANDARD FILE FLAGS...
try() {
    name="hymba.h as $2 by $1"
    if ! command -v "${1%% *}" > /dev/null 2>&1; then
        skip "$name" "no $1 here"
        return
    elif ! $1 -std=$2 -fsyntax-only "$work/empty${3##*/alone}" 2> /dev/null; then
        skip "$name" "it does not know this standard"
        return
    fi
    compiler=$1
    standard=$2
    shift 2
    expect "$name" $compiler -std=$standard $warnings "$@"
}

# Each once, the configured ones first.
for compiler in $(printf '%s\n' "$CC" gcc clang | tr ' ' '~' | awk '!seen[$0]++'); do
    for standard in c99 c11 c17; do
        try "$(echo "$compiler" | tr '~' ' ')" $standard "$work/alone.c" -Wstrict-prototypes
    done
done
for compiler in $(printf '%s\n' "$CXX" g++ clang++ | tr ' ' '~' | awk '!seen[$0]++'); do
    for standard in c++11 c++17 c++20; do
        try "$(echo "$compiler" | tr '~' ' ')" $standard "$work/alone.cc" -Wold-style-cast
    done
done

# C functions, also where the program is C++.
cat > "$work/names.cc" << 'END'
#include "hymba.h"
uint32_t (*called)() = hymba_version_number;
END
if ! command -v "${CXX%% *}" > /dev/null 2>&1; then
    skip "names have C linkage in C++" "no $CXX here"
elif $CXX -std=c++11 -Iinclude -S -o "$work/names.s" "$work/names.cc" &&
    grep -qw hymba_version_number "$work/names.s"; then
    pass "names have C linkage in C++"
else
    fail "names have C linkage in C++" "hymba_version_number is not called by its name"
fi

# Bindings read the header as plain declarations: nothing but two standard headers, no inline
# functions, no variadics, no bool, no bit-fields.
if found=$(grep -n '^#include' include/hymba.h | grep -v '<stddef.h>\|<stdint.h>'); then
    fail "includes of hymba.h" "$found"
else
    pass "includes of hymba.h"
fi
if found=$(grep -nE '\binline\b|\.\.\.\)|\bbool\b|\bva_list\b|\bFILE \*|\bunion\b|: [0-9]+;' \
    include/hymba.h); then
    fail "constructs of hymba.h" "$found"
else
    pass "constructs of hymba.h"
fi

finish

#!/bin/sh
# hymba.h compiled alone in every language it promises, without a warning.

. tests/support/script.sh

CC=${CC:-cc}
CXX=${CXX:-c++}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
echo '#include "hymba.h"' > "$work/alone.c"
cp "$work/alone.c" "$work/alone.cc"
strict="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -Iinclude"

for standard in c99 c11 c17; do
    expect "hymba.h as $standard" $CC -std=$standard $strict "$work/alone.c"
done
for standard in c++11 c++17; do
    if command -v "${CXX%% *}" > /dev/null 2>&1; then
        expect "hymba.h as $standard" $CXX -std=$standard $strict "$work/alone.cc"
    else
        skip "hymba.h as $standard" "no $CXX here"
    fi
done

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

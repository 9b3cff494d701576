#!/bin/sh
# The functions that hymba.h declares, one name a line, sorted. With the argument "ledger" or
# "map": a first lib/symbols.txt or lib/hymba.map, made from them for the version that is named.
#
#   tests/abi/exports.sh                   names
#   tests/abi/exports.sh ledger 0.1.0      lines of lib/symbols.txt
#   tests/abi/exports.sh map HYMBA_0       lib/hymba.map
#
# HYMBA_HEADER may name another header than include/hymba.h.
#
# Both files are ledgers from then on: new names are added by hand, none is ever removed.

names() {
    # Comments out, then every function name that follows HYMBA_API in one declaration.
    sed -e 's|/\*[^*]*\*/||g' "${HYMBA_HEADER:-include/hymba.h}" |
        awk '/\/\*/ { comment = 1 } !comment { print } /\*\// { comment = 0 }' |
        tr '\n' ' ' | sed 's/HYMBA_API /\n&/g' |
        sed -n 's/^HYMBA_API [^(]*[ *]\(hymba_[a-z0-9_]*\)(.*/\1/p' | LC_ALL=C sort
}

case $1 in
'') names ;;
ledger) names | sed "s/\$/ $2/" ;;
map)
    echo "$2 {"
    echo "global:"
    names | sed 's/.*/    &;/'
    echo "local:"
    echo "    *;"
    echo "};"
    ;;
*)
    echo "usage: exports.sh [ledger VERSION | map NODE]" >&2
    exit 2
    ;;
esac

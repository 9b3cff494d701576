#!/bin/sh
# The program that examples/languages holds in five languages: built against the shared library,
# run, and what they print compared to the byte. The bindings written by hand, of Python and Rust,
# are compared with hymba.h. A language whose compiler is not here is skipped.

. tests/support/script.sh

CC=${CC:-cc}
CXX=${CXX:-c++}
LC_ALL=C
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
root=$(pwd)
library=$(cd "$HYMBA_BUILD" && pwd) || exit 1
LD_LIBRARY_PATH=$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LC_ALL LD_LIBRARY_PATH
sources=examples/languages
warnings="-Wall -Wextra -Wpedantic -Wshadow -Werror"

have() {
    command -v "${1%% *}" > /dev/null 2>&1
}

# ---------------------------------------------------------------- examples

# example LANGUAGE COMMAND...: what the program prints, and how it takes a model that is not there.
example() {
    language=$1
    shift
    "$@" examples/demo "$work/$language.session" > "$work/$language.out" 2> "$work/errors"
    status=$?
    if [ $status -ne 0 ] || [ -s "$work/errors" ]; then
        fail "$language: runs" "status $status: $(cat "$work/errors")"
    elif ! cmp -s "$work/c.out" "$work/$language.out"; then
        fail "$language: prints what C prints" "(< C, > $language)"
        diff "$work/c.out" "$work/$language.out"
    else
        pass "$language: runs and prints what C prints"
    fi

    "$@" "$work/nowhere" "$work/unused" > /dev/null 2> "$work/errors"
    status=$?
    if [ $status -eq 1 ] && grep -q '^HYMBA_ERROR_FILE: .*nowhere' "$work/errors"; then
        pass "$language: says why it fails"
    else
        fail "$language: says why it fails" "status $status: $(cat "$work/errors")"
    fi
}

# The part of the text that does not depend on the instruction set.
expect_line() {
    if grep -qxE "$1" "$work/c.out"; then
        pass "a line is: $1"
    else
        fail "a line is: $1" "$(cat "$work/c.out")"
    fi
}

expect "c: builds" $CC -std=c11 $warnings $HYMBA_FLAGS -Iinclude -o "$work/c" $sources/c/story.c \
    -L"$library" -lhymba
example c "$work/c"
expect_line 'HYMBA_ERROR_FILE: cannot open no-such-model/config\.json'
expect_line 'prompt: 5 tokens'
expect_line 'fork: 5 tokens reused, 0 computed'
expect_line 'load: [0-9]+ tokens reused, 0 computed'
expect_line 'seed 7:.{20,}'
expect_line 'seed 8:.{20,}'
if [ "$(sed -n 's/^seed 7://p' "$work/c.out")" = "$(sed -n 's/^seed 8://p' "$work/c.out")" ]; then
    fail "session and fork go their own ways" "they say the same"
else
    pass "session and fork go their own ways"
fi

if have "$CXX"; then
    expect "c++: builds" $CXX -std=c++17 $warnings $HYMBA_FLAGS -Iinclude -o "$work/c++" \
        $sources/cpp/story.cpp -L"$library" -lhymba
    example c++ "$work/c++"
else
    skip "c++" "no $CXX here"
fi

# The programs below are not built with the sanitizers' runtime, which the library then needs.
if [ -n "$HYMBA_SANITIZE" ]; then
    skip "python, rust, go" "a sanitized build"
    finish
fi

if have python3; then
    example python python3 -B $sources/python/story.py
else
    skip "python" "no python3 here"
fi

if have rustc; then
    expect "rust: builds" rustc --edition 2021 -D warnings -L "$library" -o "$work/rust" \
        $sources/rust/story.rs
    example rust "$work/rust"
else
    skip "rust" "no rustc here"
fi

# Without the network, and with nothing outside the build folder but the sources.
in_go() {
    (cd $sources/go && env CGO_ENABLED=1 CGO_CFLAGS="-I$root/include" CGO_LDFLAGS="-L$library" \
        GOCACHE="$library/go-cache" GOPATH="$work/go-path" GOFLAGS=-buildvcs=false GOENV=off \
        GOPROXY=off GOTOOLCHAIN=local GOWORK=off go "$@")
}
if have go; then
    expect "go: builds" in_go build -o "$work/go" .
    expect "go: vet finds nothing" in_go vet ./...
    example go "$work/go"
else
    skip "go" "no go here"
fi

# ---------------------------------------------------------------- bindings

# Lists of what a binding declares: "constant NAME", "struct NAME", "field STRUCT NAME". From one,
# a program in C and one in the binding's language are made that print the same facts: values,
# sizes, offsets. A struct may be the first fields of the one in hymba.h, but must end with a field
# and not with padding, where hymba.h may have another. Go needs none of this: cgo reads the header.
c_facts() {
    {
        printf '#include <hymba.h>\n#include <stdio.h>\nint main(void)\n{\n'
        awk '
            function end_struct() {
                if (last)
                    printf "printf(\"%s %%zu\\n\", %s + %s);\n", name, offset, size
                last = ""
            }
            $1 == "constant" { printf "printf(\"%s %%lld\\n\", (long long)%s);\n", $2, $2 }
            $1 == "struct" { end_struct(); name = $2 }
            $1 == "field" {
                last = $3
                offset = "offsetof(" name ", " last ")"
                size = "sizeof(((" name " *)0)->" last ")"
                printf "printf(\"%s.%s %%zu %%zu\\n\", %s, %s);\n", name, last, offset, size }
            END { end_struct() }' "$1"
        printf 'return 0;\n}\n'
    } > "$work/facts.c"
    $CC -std=c11 $warnings -Iinclude -o "$work/c-facts" "$work/facts.c" && "$work/c-facts"
}

rust_facts() {
    cp $sources/rust/hymba.rs "$work"
    {
        echo '#![allow(dead_code)]'
        echo 'mod hymba; use hymba::ffi::*; use std::mem::{size_of, size_of_val};'
        echo 'fn main() {'
        awk '
            $1 == "constant" { printf "println!(\"%s {}\", %s);\n", $2, $2 }
            $1 == "struct" {
                printf "println!(\"%s {}\", size_of::<%s>());\n", $2, $2
                printf "let object = %s::default();\n", $2
                printf "let start = &object as *const _ as usize;\n" }
            $1 == "field" {
                printf "println!(\"%s.%s {} {}\", ", $2, $3
                printf "&object.%s as *const _ as usize - start, size_of_val(&object.%s));\n",
                    $3, $3 }' "$1"
        echo '}'
    } > "$work/facts.rs"
    rustc --edition 2021 -L "$library" -o "$work/rust-facts" "$work/facts.rs" &&
        "$work/rust-facts"
}

rust_list() {
    awk '
        /^ *pub const HYMBA_/ { sub(/:.*/, "", $3); print "constant", $3 }
        /^ *pub struct hymba_/ { name = $3; print "struct", name }
        /^ *}/ { name = "" }
        name && /^ *pub [a-z_]+: / { sub(/:.*/, "", $2); print "field", name, $2 }' "$1"
}

# python_facts list | facts | functions
python_facts() {
    PYTHONPATH=$sources/python python3 -B - "$1" << 'END_OF_PROGRAM'
import ctypes, sys
import hymba

listed = sys.argv[1] == "list"
for name, value in vars(hymba).items():
    if sys.argv[1] == "functions":
        break
    if name.startswith("HYMBA_"):
        print("constant" if listed else name, name if listed else value)
    elif name.startswith("hymba_") and issubclass(value, ctypes.Structure):
        print("struct" if listed else name, name if listed else ctypes.sizeof(value))
        for field, *_ in value._fields_:
            place = getattr(value, field)
            print(*(("field", name, field) if listed else
                    ("%s.%s" % (name, field), place.offset, place.size)))
if sys.argv[1] == "functions":
    for name, function in vars(hymba._library).items():
        if name.startswith("hymba_"):
            print(name, len(function.argtypes))
END_OF_PROGRAM
}

# functions FILE: "name number-of-arguments" of each prototype in C or Rust.
functions() {
    sed 's|/\*.*\*/||; s|//.*||; /^ *\/\*/,/\*\//d' "$1" | tr '\n' ' ' |
        sed 's/HYMBA_API\|pub fn/\n&/g' |
        sed -nE 's/^(HYMBA_API|pub fn) [^(]*(hymba_[a-z0-9_]*)\(([^()]*)\).*/\2 \3/p' |
        awk '{ print $1, ($2 == "void" && NF == 2) ? 0 : gsub(/,/, "") + 1 }'
}

# same LANGUAGE: the files LANGUAGE.facts and LANGUAGE.functions agree with hymba.h.
same() {
    sort "$work/$1.facts" > "$work/facts"
    c_facts "$work/$1.list" 2> "$work/errors" | sort > "$work/c.facts"
    if [ "$(grep -c '^struct' "$work/$1.list")" -lt 5 ] ||
        [ "$(wc -l < "$work/$1.list")" -ne "$(wc -l < "$work/c.facts")" ]; then
        fail "$1: constants and structs" "not read: $(cat "$work/errors")"
    elif difference=$(diff "$work/c.facts" "$work/facts"); then
        pass "$1: constants and structs are those of hymba.h"
    else
        fail "$1: constants and structs" "value, or offset and size, differ (< C, > $1)"
        echo "$difference"
    fi

    functions include/hymba.h | sort > "$work/c.functions"
    sort "$work/$1.functions" > "$work/declared"
    difference=$(comm -13 "$work/c.functions" "$work/declared")
    if [ "$(wc -l < "$work/declared")" -lt 15 ]; then
        fail "$1: functions" "not read"
    elif [ -z "$difference" ]; then
        pass "$1: functions take as many arguments as in hymba.h"
    else
        fail "$1: functions" "another number of arguments in hymba.h: $difference"
    fi
}

if have python3; then
    python_facts list > "$work/python.list"
    python_facts facts > "$work/python.facts"
    python_facts functions > "$work/python.functions"
    same python
fi

if have rustc; then
    rust_list $sources/rust/hymba.rs > "$work/rust.list"
    rust_facts "$work/rust.list" > "$work/rust.facts"
    functions $sources/rust/hymba.rs > "$work/rust.functions"
    same rust
fi

finish

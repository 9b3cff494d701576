#!/bin/sh
# The C program in README.md, compiled against the shared library and run as it stands there; and
# the examples.

. tests/support/script.sh

CC=${CC:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# The first ```c block.
awk '/^```c$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' README.md \
    > "$work/program.c"
if [ -s "$work/program.c" ]; then
    pass "README.md has a program"
else
    fail "README.md has a program" "no block that begins with \`\`\`c"
    finish
fi

expect "it compiles without a warning" $CC -std=c11 -Wall -Wextra -Wpedantic -Werror $HYMBA_FLAGS \
    -Iinclude -o "$work/program" "$work/program.c" -L"$HYMBA_BUILD" -lhymba

# From the root, like a reader of the README: the model is named by its path there.
LD_LIBRARY_PATH=$HYMBA_BUILD "$work/program" > "$work/output" 2> "$work/errors"
status=$?
if [ $status -eq 0 ] && [ "$(wc -c < "$work/output")" -gt 20 ]; then
    pass "it writes text"
else
    fail "it writes text" "status $status, output: $(cat "$work/output" "$work/errors")"
fi

example() {
    "$HYMBA_BUILD/examples/generate" "$@" > "$work/output" 2> "$work/errors"
}

if example examples/demo "Once upon a time" && [ "$(wc -c < "$work/output")" -gt 20 ]; then
    pass "examples/generate writes text"
else
    fail "examples/generate writes text" "$(cat "$work/output" "$work/errors")"
fi
if ! example "$work/nowhere" "Once" && grep -q 'nowhere' "$work/errors"; then
    pass "examples/generate names a directory that is not there"
else
    fail "examples/generate names a directory that is not there" "$(cat "$work/errors")"
fi

if "$HYMBA_BUILD/examples/batch" examples/demo "Once upon a time" "The dog" > "$work/output" \
    2> "$work/errors" && grep -q '^Once upon a time..' "$work/output" &&
    grep -q '^The dog..' "$work/output" && [ ! -s "$work/errors" ]; then
    pass "examples/batch continues both prompts"
else
    fail "examples/batch continues both prompts" "$(cat "$work/output" "$work/errors")"
fi

finish

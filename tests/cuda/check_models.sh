#!/bin/sh
# The demo model on the CUDA device against the CPU, through the command alone: the same words where
# the most probable token is always taken, in f32 and in bf16, and one line where there is no
# device. The device is the harness's, or a real one for `make check-cuda`, which names the plug-in.

. tests/support/script.sh

command=${HYMBA_COMMAND:-bin/hymba}
HYMBA_CUDA_PLUGIN=${HYMBA_CUDA_PLUGIN:-$PWD/$HYMBA_BUILD/tests/cuda/libhymba-cuda.so}
export HYMBA_CUDA_PLUGIN

# generate DEVICE COMPUTE COUNT PROMPT: the text.
generate() {
    "$command" generate --device "$1" --compute "$2" -n "$3" -p "$4" --temp 0 --no-echo 2> /dev/null
}

# agrees COMPUTE COUNT PROMPT
agrees() {
    here=$(generate cpu "$@") || return 1
    there=$(generate cuda "$@") || {
        "$command" generate --device cuda --compute "$1" -n 1
        return 1
    }
    [ -n "$here" ] && [ "$here" = "$there" ] || {
        echo "cpu:  $here"
        echo "cuda: $there"
        return 1
    }
}

expect "f32: the CPU's words after a short prompt" agrees f32 "${HYMBA_TOKENS:-5}" \
    "Once upon a time"
expect "bf16: the CPU's words after a short prompt" agrees bf16 "${HYMBA_TOKENS:-5}" \
    "The little dog"
expect "f32: the CPU's words after a long prompt" agrees f32 "${HYMBA_TOKENS:-2}" \
    "Once upon a time there was a girl who lived in a small house near the woods. One day she went \
for a walk with her dog. They saw a bird, and the bird sang a song. The girl was very happy, and"

# One line on stderr, status not 0.
says_one_line() {
    "$@" > /dev/null 2> "$lines" && return 1
    [ "$(wc -l < "$lines")" = 1 ] || {
        cat "$lines"
        return 1
    }
}
lines=$(mktemp) || exit 1
trap 'rm -f "$lines"' EXIT
expect "a device that is not there is told in one line" says_one_line "$command" generate \
    --device cuda:7 -n 1
HYMBA_CUDA_PLUGIN=$PWD/not-there.so
expect "a plug-in that is not there is told in one line" says_one_line "$command" generate \
    --device cuda -n 1

finish

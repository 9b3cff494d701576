#!/bin/sh
# The demo model on the CUDA device against the CPU, through the command alone: the same words where
# the most probable token is always taken, in f32 and in bf16, with quantised weights, too, and one
# line where there is no device. The device is the harness's, or a real one for `make check-cuda`,
# which names the plug-in.

. tests/support/script.sh

command=${HYMBA_COMMAND:-bin/hymba}
harness=$PWD/$HYMBA_BUILD/tests/cuda/libhymba-cuda.so
HYMBA_CUDA_PLUGIN=${HYMBA_CUDA_PLUGIN:-$harness}
export HYMBA_CUDA_PLUGIN
cuda=cuda

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
lines=$folder/lines
quantised=$folder/q4

# generate DEVICE COMPUTE COUNT PROMPT [OPTION...]: the text.
generate() {
    device=$1 compute=$2 count=$3 prompt=$4
    shift 4
    "$command" generate --device "$device" --compute "$compute" -n "$count" -p "$prompt" --temp 0 \
        --no-echo "$@" 2> /dev/null
}

# agrees COMPUTE COUNT PROMPT [OPTION...]
agrees() {
    here=$(generate cpu "$@") || return 1
    there=$(generate "$cuda" "$@") || {
        compute=$1
        shift 3
        "$command" generate --device "$cuda" --compute "$compute" -n 1 "$@"
        return 1
    }
    [ -n "$here" ] && [ "$here" = "$there" ] || {
        echo "cpu:  $here"
        echo "$cuda: $there"
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

# Two devices as one; a real machine may have a single one.
if [ "$HYMBA_CUDA_PLUGIN" = "$harness" ]; then
    cuda=cuda:0,1
    HYMBA_HARNESS_DEVICES=2
    export HYMBA_HARNESS_DEVICES
    expect "f32: the CPU's words from two devices" agrees f32 3 "Once upon a time"
    unset HYMBA_HARNESS_DEVICES
    cuda=cuda
fi

# With quantised weights: files of int4, the plain way; int8 made while loading. On the CPU their
# products are f32 even where bf16 is asked for, so the words part in the end: four of them.
expect "the demo model is quantised" \
    "$command" quantize -m examples/demo -o "$quantised" --type q4 \
    --group 64
expect "int4 in f32: the CPU's words after a short prompt" agrees f32 "${HYMBA_TOKENS:-4}" \
    "Once upon a time" -m "$quantised"
expect "int4 in bf16: the CPU's words after a short prompt" agrees bf16 4 \
    "The little dog" -m "$quantised"
expect "int8 in bf16: the CPU's words after a short prompt" agrees bf16 4 \
    "Once upon a time" --quantize int8

# The speed of a small model: a row for the prompt and one for decoding, with all figures.
measures() {
    "$command" bench -m tests/data/goldens/a_all_features --device cuda -p 9 -n 1 -d 5 -b 2 \
        --read-buffer 64 "$@" > "$lines" || return 1
    awk -v "wanted=$wanted" '
        /"device": "cuda:0"/ || /copy bandwidth [0-9]/ { found++ }
        /"(read_gb_s|matrix_gflop_s|bandwidth_share|matrix_share)": / && $2 + 0 > 0 { found++ }
        /^(prefill|decode) .* [0-9.]+% +[0-9.]+%$/ { found++ }
        END { exit found != wanted }' "$lines" || {
        cat "$lines"
        return 1
    }
}
wanted=3
expect "the device is measured" measures
wanted=9
expect "the device is measured, as JSON" measures --json

# Each of its kernels, with the time of a launch in it.
measures_kernels() {
    "$command" bench -m tests/data/goldens/a_all_features --device cuda -p 9 -n 1 -d 5 -b 2 \
        --read-buffer 64 --kernels > "$lines" || return 1
    awk '/^  [a-z_]+ +[0-9]+ +[0-9.]+ +[0-9.]+% +[0-9.]+ +[0-9.]+% +[0-9.]+%$/ { found[$1]++ }
        END { exit found["in_proj"] != 2 || found["scan"] != 2 || found["attention_window"] != 2 ||
                  found["step"] != 2 }' "$lines" || {
        cat "$lines"
        return 1
    }
}
expect "kernels are measured" measures_kernels

# One line on stderr, status not 0.
says_one_line() {
    "$@" > /dev/null 2> "$lines" && return 1
    [ "$(wc -l < "$lines")" = 1 ] || {
        cat "$lines"
        return 1
    }
}
expect "a device that is not there is told in one line" says_one_line "$command" generate \
    --device cuda:7 -n 1
HYMBA_CUDA_PLUGIN=$PWD/not-there.so
expect "a plug-in that is not there is told in one line" says_one_line "$command" generate \
    --device cuda -n 1

finish

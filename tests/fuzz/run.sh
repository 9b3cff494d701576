#!/bin/sh
# run.sh SECONDS [NAME...]: builds the fuzz targets with libFuzzer, the address and the
# undefined-behaviour sanitizer, and runs each for so long with its corpus and dictionary, JOBS
# (default 2) at a time. Prints the executions of each and of all; fails on any finding, which is
# left in build/fuzz/findings. FUZZ_KEEP=1 copies what reached new code into tests/fuzz/corpus;
# FUZZ_CFLAGS are further flags of the compiler.

usage="run.sh SECONDS [NAME...]"
programs=build/fuzz/bin
findings=build/fuzz/findings

# fuzz_one SECONDS NAME: prints a line; leaves the executions in build/fuzz/NAME.count if all is
# well. The log is shown in one piece, since others print meanwhile.
fuzz_one() {
    seconds=$1
    name=$2
    corpus=tests/fuzz/corpus/$name
    work=build/fuzz/corpus/$name
    log=build/fuzz/$name.log
    result=ok
    longest=16384
    [ "$name" = tokens ] && longest=1024
    mkdir -p "$work"
    "$programs/$name" "$work" "$corpus" -dict="tests/fuzz/$name.dict" -max_len=$longest \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -detect_leaks=1 \
        -print_final_stats=1 -artifact_prefix="$findings/$name-" < /dev/null > "$log" 2>&1 ||
        result=FINDING
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    line=$(printf '%-16s %9s executions in %s s, %s edges: %s' "$name" "${executions:-?}" \
        "$seconds" "${covered:-?}" "$result")
    if [ $result != ok ]; then
        printf '%s\n%s\n' "$line" "$(tail -n 60 "$log")"
        return
    fi
    printf '%s\n' "$line"
    echo "${executions:-0}" > "build/fuzz/$name.count"
    if [ "${FUZZ_KEEP:-0}" = 1 ]; then
        "$programs/$name" -merge=1 -max_len=$longest "$corpus" "$work" > "$log.merge" 2>&1
    fi
}

if [ "$1" = --one ]; then
    fuzz_one "$2" "$3"
    exit 0
fi

seconds=${1:?"$usage"}
shift
cd "$(dirname "$0")/../.." || exit 2
[ $# -gt 0 ] || set -- $(ls tests/fuzz/test_*.c | sed 's|.*/test_||; s|\.c$||')
mkdir -p "$programs" "$findings"
for name; do
    rm -f "build/fuzz/$name.count"
done

${MAKE:-make} --no-print-directory fuzz-programs CC="${FUZZ_CC:-clang}" \
    SANITIZE=address,undefined CFLAGS='-O1 -g' \
    EXTRA_CFLAGS="-fsanitize=fuzzer-no-link $FUZZ_CFLAGS" \
    FUZZ_DRIVER=-fsanitize=fuzzer FUZZ_BIN="$programs" FUZZ_NAMES="$*" || exit 2

printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -I '{}' sh tests/fuzz/run.sh --one "$seconds" '{}'

total=0
failed=0
for name; do
    if [ -f "build/fuzz/$name.count" ]; then
        total=$((total + $(cat "build/fuzz/$name.count")))
    else
        failed=$((failed + 1))
    fi
done
echo "fuzzing: $# targets, $total executions, $failed with a finding"
[ $failed -eq 0 ]

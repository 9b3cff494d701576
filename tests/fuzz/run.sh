#!/bin/sh
# run.sh SECONDS [NAME...]: builds the fuzz targets with libFuzzer, the address and the
# undefined-behaviour sanitizer, and runs each for so long with its corpus and dictionary, one
# process at a time. Prints the executions of each; fails on any finding, which is left in
# build/fuzz/findings. FUZZ_KEEP=1 copies what reached new code into tests/fuzz/corpus.

seconds=${1:?"run.sh SECONDS [NAME...]"}
shift
cd "$(dirname "$0")/../.." || exit 2
[ $# -gt 0 ] || set -- $(ls tests/fuzz/test_*.c | sed 's|.*/test_||; s|\.c$||')
programs=build/fuzz/bin
findings=build/fuzz/findings
mkdir -p "$programs" "$findings"

${MAKE:-make} --no-print-directory fuzz-programs CC="${FUZZ_CC:-clang}" \
    SANITIZE=address,undefined CFLAGS='-O1 -g' EXTRA_CFLAGS=-fsanitize=fuzzer-no-link \
    FUZZ_DRIVER=-fsanitize=fuzzer FUZZ_BIN="$programs" FUZZ_NAMES="$*" || exit 2

failed=0
for name; do
    corpus=tests/fuzz/corpus/$name
    work=build/fuzz/corpus/$name
    log=build/fuzz/$name.log
    longest=16384
    [ "$name" = tokens ] && longest=1024
    mkdir -p "$work"
    if "$programs/$name" "$work" "$corpus" -dict="tests/fuzz/$name.dict" -max_len=$longest \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -detect_leaks=1 \
        -print_final_stats=1 -artifact_prefix="$findings/$name-" > "$log" 2>&1; then
        result=ok
    else
        result=FINDING
        failed=1
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '%-16s %9s executions in %s s, %s edges: %s\n' "$name" "${executions:-?}" \
        "$seconds" "${covered:-?}" "$result"
    [ $result = ok ] || tail -n 60 "$log"
    if [ "${FUZZ_KEEP:-0}" = 1 ] && [ $result = ok ]; then
        "$programs/$name" -merge=1 -max_len=$longest "$corpus" "$work" > "$log.merge" 2>&1
    fi
done
exit $failed

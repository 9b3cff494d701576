#!/bin/sh
# run_afl.sh SECONDS [NAME...]: the same targets under AFL++, whose driver calls the same function
# in persistent mode. Needs afl-clang-fast and afl-fuzz; skips without them.

seconds=${1:?"run_afl.sh SECONDS [NAME...]"}
shift
cd "$(dirname "$0")/../.." || exit 2
if ! command -v afl-clang-fast > /dev/null || ! command -v afl-fuzz > /dev/null; then
    echo "skipped: AFL++ is not here"
    exit 0
fi
[ $# -gt 0 ] || set -- $(ls tests/fuzz/test_*.c | sed 's|.*/test_||; s|\.c$||')
programs=build/fuzz/bin-afl
mkdir -p "$programs"

AFL_QUIET=1 AFL_USE_ASAN=1 AFL_USE_UBSAN=1 ${MAKE:-make} --no-print-directory fuzz-programs \
    CC=afl-clang-fast CFLAGS='-O1 -g' FUZZ_DRIVER=-fsanitize=fuzzer FUZZ_BIN="$programs" \
    EXTRA_CFLAGS=-DHYMBA_AFL FUZZ_NAMES="$*" || exit 2

export AFL_SKIP_CPUFREQ=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_NO_UI=1 AFL_NO_AFFINITY=1
export AFL_QUIET=1
failed=0
for name; do
    out=build/fuzz/afl/$name
    rm -rf "$out"
    mkdir -p "$out"
    afl-fuzz -i "tests/fuzz/corpus/$name" -o "$out" -x "tests/fuzz/$name.dict" -m none \
        -t 10000 -V "$seconds" -- "$programs/$name" > "$out.log" 2>&1
    stats=$out/default/fuzzer_stats
    executions=$(sed -n 's/^execs_done *: *//p' "$stats" 2> /dev/null)
    crashes=$(sed -n 's/^saved_crashes *: *//p' "$stats" 2> /dev/null)
    printf '%-16s %9s executions under AFL++ in %s s, %s findings\n' "$name" \
        "${executions:-?}" "$seconds" "${crashes:-?}"
    [ "${crashes:-1}" = 0 ] || { failed=1; tail -n 20 "$out.log"; }
done
exit $failed

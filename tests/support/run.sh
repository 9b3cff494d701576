#!/bin/sh
# Runs test programs and scripts, named by their source path without ".c" (make gives them), and
# prints one line for each. A test program reports as Check does; a script as tests/support/
# script.sh does, which is the same. The last line sums up: N passed, M failed[, K skipped].
#
# HYMBA_BUILD         folder that holds the programs
# HYMBA_BUILD_FAILED  1 if something did not build, which counts as one failure
# HYMBA_WRAPPER       command that each program is run under, such as valgrind

CK_DEFAULT_TIMEOUT=${CK_DEFAULT_TIMEOUT:-300}
UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export CK_DEFAULT_TIMEOUT UBSAN_OPTIONS

passed=0
failed=0
skipped=0
output=$(mktemp) || exit 1
trap 'rm -f "$output"' EXIT
trap 'exit 130' INT TERM

# The number behind a word in lines like "100%: Checks: 12, Failures: 0, Errors: 0", summed up.
count_of() {
    sed -n "s/^[0-9]*%: Checks: .*/, &/; s/^, .*$1: \\([0-9]*\\).*/\\1/p" "$output" |
        awk '{ sum += $1 } END { print sum + 0 }'
}

run_one() {
    case $1 in
    *.sh) sh "$1" ;;
    *)
        if [ -x "$HYMBA_BUILD/$1" ]; then
            timeout 1800 $HYMBA_WRAPPER "$HYMBA_BUILD/$1"
        else
            echo "the program did not build"
            return 1
        fi
        ;;
    esac
}

for test in "$@"; do
    run_one "$test" > "$output" 2>&1
    status=$?
    checks=$(count_of Checks)
    bad=$(($(count_of Failures) + $(count_of Errors)))
    left_out=$(grep -c '^skipped: ' "$output")
    # Died, or ended badly for a reason outside its cases (a leak, say): one failure more.
    if [ $status -ne 0 ] && [ $bad -eq 0 ]; then
        bad=1
        checks=$((checks + 1))
    fi
    good=$((checks - bad))
    [ $left_out -gt $good ] && left_out=$good
    good=$((good - left_out))
    passed=$((passed + good))
    failed=$((failed + bad))
    skipped=$((skipped + left_out))
    line="$good passed"
    [ $left_out -gt 0 ] && line="$line, $left_out skipped"
    if [ $bad -gt 0 ]; then
        echo "FAILED $test: $line, $bad failed (exit status $status)"
        sed 's/^/    /' "$output"
    else
        echo "ok     $test: $line"
        grep '^skipped: ' "$output" | sort -u | sed 's/^/         /'
    fi
done

if [ "${HYMBA_BUILD_FAILED:-0}" != 0 ]; then
    echo "FAILED build: something did not build, see above"
    failed=$((failed + 1))
fi
summary="$passed passed, $failed failed"
[ $skipped -gt 0 ] && summary="$summary, $skipped skipped"
echo "$summary"
[ $failed -eq 0 ] && [ $((passed + skipped)) -gt 0 ]

#!/bin/sh
# Runs test programs and scripts, named by their source path without ".c" (make gives them), and
# prints one line for each, as they end. A test program reports as Check does, and so does a
# script, through tests/support/script.sh. The last line sums up:
# N passed, M failed[, K skipped].
#
# HYMBA_BUILD         folder that holds the programs
# HYMBA_BUILD_FAILED  1 if something did not build, which counts as one failure
# HYMBA_WRAPPER       command that each program is run under, such as valgrind
# JOBS                how many run at a time

# The sum of the numbers behind a word in lines like "100%: Checks: 12, Failures: 0, Errors: 0".
count_of() {
    sed -n "s/^[0-9]*%: Checks: .*/, &/; s/^, .*$1: \([0-9]*\).*/\1/p" "$2" |
        awk '{ sum += $1 } END { print sum + 0 }'
}

run_test() {
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

# Runs one test, prints its lines at once, so that those of others do not come between, and adds
# its numbers to the file "counts".
run_and_report() {
    output=$(mktemp "$HYMBA_TEST_WORK/XXXXXX") || return
    begin=$(date +%s)
    run_test "$1" > "$output" 2>&1 < /dev/null
    status=$?
    seconds=$(($(date +%s) - begin))
    checks=$(count_of Checks "$output")
    bad=$(($(count_of Failures "$output") + $(count_of Errors "$output")))
    left_out=$(grep -c '^skipped: ' "$output")
    # Died, or ended badly for a reason outside its cases (a leak, say): one failure more.
    if [ $status -ne 0 ] && [ $bad -eq 0 ]; then
        bad=1
        checks=$((checks + 1))
    fi
    good=$((checks - bad))
    [ $left_out -gt $good ] && left_out=$good
    good=$((good - left_out))
    line="$good passed"
    [ $left_out -gt 0 ] && line="$line, $left_out skipped"
    # Where the time goes; it decides nothing.
    [ $seconds -ge 10 ] && line="$line ($seconds s)"
    if [ $bad -gt 0 ]; then
        echo "FAILED $1: $line, $bad failed (exit status $status)"
        sed 's/^/    /' "$output"
    else
        echo "ok     $1: $line"
        grep '^skipped: ' "$output" | sort -u | sed 's/^/         /'
        # The figures of a long form: lines "area: figure".
        [ -n "$HYMBA_LONG" ] && grep '^[a-z][^:]*: .*[0-9]' "$output" |
            grep -v '^skipped: ' | sed 's/^/         /'
    fi > "$output.report"
    cat "$output.report"
    echo "$good $bad $left_out" >> "$HYMBA_TEST_WORK/counts"
}

if [ "$1" = --one ]; then
    run_and_report "$2"
    exit 0
fi

CK_DEFAULT_TIMEOUT=${CK_DEFAULT_TIMEOUT:-300}
UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
HYMBA_TEST_WORK=$(mktemp -d) || exit 1
export CK_DEFAULT_TIMEOUT UBSAN_OPTIONS HYMBA_TEST_WORK
trap 'rm -rf "$HYMBA_TEST_WORK"' EXIT
trap 'exit 130' INT TERM

[ $# -gt 0 ] && printf '%s\n' "$@" | xargs -n 1 -P "${JOBS:-1}" "$0" --one
touch "$HYMBA_TEST_WORK/counts"
missing=$(($# - $(wc -l < "$HYMBA_TEST_WORK/counts")))
[ $missing -ne 0 ] && echo "FAILED run: $missing tests did not report"
if [ "${HYMBA_BUILD_FAILED:-0}" != 0 ]; then
    echo "FAILED build: something did not build, see above"
    missing=$((missing + 1))
fi
awk -v missing=$missing '
    { passed += $1; failed += $2; skipped += $3 }
    END {
        failed += missing
        printf "%d passed, %d failed", passed, failed
        if (skipped > 0)
            printf ", %d skipped", skipped
        printf "\n"
        exit failed > 0 || passed + skipped == 0
    }' "$HYMBA_TEST_WORK/counts"

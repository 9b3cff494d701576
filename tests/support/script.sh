# For test scripts: reports cases as Check does. Read by them with ". tests/support/script.sh".

script_checks=0
script_failures=0

# pass NAME; fail NAME REASON; skip NAME REASON: one case each.
pass() {
    script_checks=$((script_checks + 1))
    echo "ok: $1"
}

fail() {
    script_checks=$((script_checks + 1))
    script_failures=$((script_failures + 1))
    echo "failed: $1: $2"
}

skip() {
    script_checks=$((script_checks + 1))
    echo "skipped: $1: $2"
}

# expect NAME COMMAND...: passes if the command succeeds; its output is shown if not.
expect() {
    expect_name=$1
    shift
    if expect_output=$("$@" 2>&1); then
        pass "$expect_name"
    else
        fail "$expect_name" "$* gave status $?"
        echo "$expect_output"
    fi
}

# The last line of a script: prints the sum and ends.
finish() {
    script_good=$((script_checks - script_failures))
    echo "$((script_checks ? 100 * script_good / script_checks : 0))%: Checks: $script_checks," \
        "Failures: $script_failures, Errors: 0"
    [ $script_failures -eq 0 ]
    exit
}

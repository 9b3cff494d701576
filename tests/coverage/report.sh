#!/bin/sh
# report.sh FOLDER: sums up, for the objects in FOLDER, which lines of the library the tests ran,
# and fails where a part lies below what is promised: the parsers (of files, JSON, templates,
# tokenizers, saved sessions) and the public functions 95 %, the whole library 90 %.

folder=$1
failed=0

# part NAME PERCENT FILTER...: lines of the source files whose paths match one of the filters.
part() {
    name=$1
    percent=$2
    shift 2
    filters=
    for filter in "$@"; do
        filters="$filters --filter $filter"
    done
    if gcovr --root . $filters --fail-under-line "$percent" --print-summary "$folder" \
        > "$folder/coverage.txt" 2> "$folder/coverage.errors"; then
        verdict=ok
    else
        verdict='too little'
        failed=1
    fi
    lines=$(sed -n 's/^lines: //p' "$folder/coverage.txt")
    [ -n "$lines" ] || cat "$folder/coverage.errors"
    echo "$name: $lines; at least $percent %: $verdict"
}

part 'parsers and public functions' 95 'lib/' 'src/format/' 'src/text/' 'src/base/json' \
    'src/run/load_session'
cp "$folder/coverage.txt" build/coverage-parsers.txt
part 'whole library' 90 'lib/' 'src/'
cp "$folder/coverage.txt" build/coverage.txt
echo 'file by file: build/coverage.txt'
exit $failed

#!/bin/sh
# Rules of the source tree that a program can check: layers, banned calls, text form. Prints every
# violation as FILE:LINE.

. tests/support/script.sh

LC_ALL=C
export LC_ALL
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# All text files that are written by hand; data is no text, whatever it holds.
find . \( -path ./.git -o -path ./build -o -path ./bin -o -path ./tests/data \
    -o -path ./examples/demo -o -name __pycache__ \) -prune -o -type f -print |
    sed 's|^\./||' | sort > "$work/files"
grep -E '\.(c|h)$' "$work/files" > "$work/c_files"
grep -E '^(src|lib)/.*\.(c|h)$' "$work/c_files" > "$work/library_files"

# report NAME: passes if the file "violations" is empty, and shows it otherwise.
report() {
    if [ -s "$work/violations" ]; then
        fail "$1" "$(wc -l < "$work/violations") places"
        cat "$work/violations"
    else
        pass "$1"
    fi
}

# Each library file without comments and strings, once for all checks that follow.
mkdir "$work/code"
while read -r file; do
    mkdir -p "$work/code/$(dirname "$file")"
    awk -f tests/style/strip.awk "$file" > "$work/code/$file"
done < "$work/library_files"

# in_code PATTERN FILE-FILTER: lines of library code that match, outside the files that match.
in_code() {
    (cd "$work/code" && grep -rnE "$1" src lib 2> /dev/null) | grep -vE "$2"
}

# ------------------------------------------------------------------ layers

# A folder's level; folders of one level are strangers to each other.
level_of() {
    case $1 in
    base) echo 0 ;;
    tensor) echo 1 ;;
    format | kernel | text) echo 2 ;;
    backend) echo 3 ;;
    model) echo 4 ;;
    state) echo 5 ;;
    run) echo 6 ;;
    train) echo 7 ;;
    lib) echo 8 ;;
    *) echo 99 ;;
    esac
}

while read -r file; do
    folder=$(echo "$file" | sed 's|^src/||; s|/.*||')
    sed -n 's/^ *# *include "\(.*\)".*/\1/p' "$file" | while read -r included; do
        [ "$included" = hymba.h ] && continue
        case $included in
        */*) other=${included%%/*} ;;
        *) other=$folder ;;
        esac
        [ "$other" = "$folder" ] && continue
        if [ "$(level_of "$other")" -ge "$(level_of "$folder")" ]; then
            echo "$file: includes \"$included\", which is not below $folder"
        fi
    done
done < "$work/library_files" > "$work/violations"
report "a folder includes only folders below it"

while read -r file; do
    folder=$(dirname "$file")
    sed -n 's/^ *# *include "\(.*\)".*/\1/p' "$file" | while read -r included; do
        [ "$included" = hymba.h ] || [ -f "$folder/$included" ] ||
            echo "$file: includes \"$included\""
    done
done > "$work/violations" << END
$(grep -E '^(tools|examples|bindings)/.*\.(c|h)$' "$work/c_files")
END
report "tools and examples see hymba.h alone"

grep -nE '^ *# *include *<jansson\.h>' $(cat "$work/library_files") |
    grep -v '^src/base/json\.c:' > "$work/violations"
report "one file of the library knows Jansson"

in_code '^[a-z].*[ *]hymba_[a-z0-9_]+\(' '^lib/' > "$work/violations"
report "hymba_ functions are defined in lib alone"

# ------------------------------------------------------------------- calls

# calls NAMES: a pattern for a call of one of them.
calls() {
    echo "(^|[^a-zA-Z0-9_.>])($(echo $1 | tr ' ' '|'))\("
}

memory='malloc calloc realloc free aligned_alloc posix_memalign strdup strndup asprintf alloca'
in_code "$(calls "$memory")" '^src/base/(memory|json)\.c:' > "$work/violations"
report "memory comes through base/memory.h"

banned='abort exit _exit _Exit quick_exit assert printf vprintf puts putchar perror setlocale signal
sigaction setjmp longjmp sprintf vsprintf strtok strcpy strcat gets scanf sscanf atoi atol atof rand
srand system popen'
in_code "$(calls "$banned")" '^$' > "$work/violations"
in_code '(^|[^a-zA-Z0-9_])(stdout|stderr|stdin)([^a-zA-Z0-9_]|$)' '^$' >> "$work/violations"
report "no banned calls"

# -------------------------------------------------------------------- text

# Control characters, no-break and zero-width spaces, soft hyphens, marks of direction.
invisible='[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\xa0\xad]|\xe2\x80[\x8b-\x8f\xa8-\xae]'
invisible="$invisible|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf"

# grep -I passes over binary files.
while read -r file; do
    case $file in tests/fuzz/corpus/*) continue ;; esac # kept byte by byte
    grep -qI . "$file" || continue
    [ -z "$(tail -c 1 "$file" | tr -d '\n')" ] || echo "$file: no newline at the end"
    grep -nE '[ 	]$' "$file" | sed "s|^\([0-9]*\):.*|$file:\1: blank at the end|"
    grep -nP "$invisible" "$file" | sed "s|^\([0-9]*\):.*|$file:\1: invisible character|"
done < "$work/files" > "$work/violations"
report "text files are plain"

grep -nE '	' $(cat "$work/c_files") | sed 's/\(:[0-9]*\):.*/\1: tab/' > "$work/violations"
report "no tabs in C"

# Columns are characters: bytes that continue one in UTF-8 do not count.
grep -E '\.(c|h|sh|awk|py)$|(^|/)(Makefile|run)$' "$work/files" | while read -r file; do
    awk -v file="$file" '{ line = $0; gsub(/[\200-\277]/, "", line) }
        length(line) > 100 {
            printf "%s:%d: %d columns\n", file, NR, length(line) }' "$file"
done > "$work/violations"
report "lines of at most 100 columns"

while read -r file; do
    lines=$(wc -l < "$file")
    [ "$lines" -gt 600 ] && echo "warning: $file has $lines lines: has a second subject moved in?"
done << END
$(grep -E '^(src|lib|tools)/' "$work/c_files")
END

# ----------------------------------------------------------------- hymba.h

# A comment stands directly above the first declaration of each group; ..._init functions of sized
# structs are explained once, at the top of the header.
awk '
    /^HYMBA_API/ && previous !~ /\*\/$/ && !grouped && !/_init\([a-z_]+ \*[a-z]+, size_t size\);$/ {
        printf "include/hymba.h:%d: no comment above it\n", NR }
    /^HYMBA_API/ { grouped = 1 }
    /^$/ { grouped = 0 }
    { previous = $0 }' include/hymba.h > "$work/violations"
report "declarations in hymba.h have comments"

grep -nE '^- ' CHANGELOG.md | grep -vE '^[0-9]+:- (abi|api|fix|perf|cuda|train|build|doc): ' \
    > "$work/violations"
report "CHANGELOG.md lines name their area"

finish

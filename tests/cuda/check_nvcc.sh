#!/bin/sh
# The plug-in as nvcc builds it, for one architecture: without warnings, without spills but those
# that cuda/spills.txt gives a reason for, exporting one symbol; and the core needs no CUDA library.
# Prints what each kernel takes. What else can be tested without a GPU is under the harness.

. tests/support/script.sh

build=${HYMBA_BUILD:-build}
architecture=${HYMBA_CUDA_ARCH:-80}
folder=$build/nvcc/$architecture

needs_no_cuda() {
    if ldd "$1" | grep -i -e cuda -e cublas; then
        echo "$1 needs a CUDA library"
        return 1
    fi
}

for core in "$build"/libhymba.so "$build"/hymba; do
    [ -e "$core" ] && expect "$core needs no CUDA library" needs_no_cuda "$core"
done

if ! command -v "${NVCC:-nvcc}" > /dev/null 2>&1; then
    skip "the plug-in builds without warnings" "nvcc is not here"
    finish
fi

# The folder's objects are up to date after this, each with a log of its kernels beside it.
expect "the plug-in builds without warnings" "${MAKE:-make}" --no-print-directory cuda-plugin \
    CUDA_ARCHS="$architecture" CUDA_OBJ="$folder"

# One line a kernel: name, registers, bytes spilled, bytes of static shared memory.
kernels() {
    cat "$folder"/*.o.log | awk '
        /Compiling entry function/ { split($0, part, "\x27"); name = part[2] }
        /bytes spill stores/ { spilled = $5 + $9 }
        /Used [0-9]+ registers/ {
            shared = 0
            for (i = 2; i <= NF; i++) {
                if ($i == "registers,")
                    registers = $(i - 1)
                if ($i ~ /^smem/)
                    shared = $(i - 2)
            }
            print name, registers, spilled, shared
        }' | c++filt | sed 's/^void //; s/(.*) \([0-9]* [0-9]* [0-9]*\)$/ \1/' | sort
}

# Whether each kernel that spills is in the list.
spills_are_known() {
    awk '
        NR == FNR { if ($0 !~ /^#/) known[$1] = 1; next }
        { spilled = $(NF - 1) }
        spilled > 0 && !($1 in known) { print $1 " spills " spilled " bytes"; bad = 1 }
        END { exit bad }' cuda/spills.txt "$1"
}

list=$(mktemp) || exit 1
trap 'rm -f "$list"' EXIT
kernels | awk '{ n = NF; name = $1; for (i = 2; i <= n - 3; i++) name = name $i;
    print name, $(n - 2), $(n - 1), $n }' > "$list"
if [ -s "$list" ]; then
    pass "each kernel's registers are known"
    awk '{ printf "nvcc: %s: %d registers, %d bytes spilled, %d bytes of static shared memory\n",
        $1, $2, $3, $4 }' "$list"
else
    fail "each kernel's registers are known" "no log of nvcc's in $folder"
fi
expect "no kernel spills but those of cuda/spills.txt" spills_are_known "$list"

exports() {
    symbols=$("${NM:-nm}" -D --defined-only "$folder/libhymba-cuda.so" | sed 's/.* //')
    [ "$symbols" = hymba_device_plugin ] || {
        echo "it exports: $symbols"
        return 1
    }
}
expect "the plug-in exports its entry alone" exports

links_cublaslt_alone() {
    needed=$(ldd "$folder/libhymba-cuda.so" | grep -i -e cuda -e cublas | sed 's/ =>.*//')
    case $needed in
    *libcublasLt.so.*) [ "$(echo "$needed" | wc -l)" = 1 ] ;;
    *) false ;;
    esac || {
        echo "it needs: $needed"
        return 1
    }
}
expect "the plug-in needs no CUDA library but cuBLASLt" links_cublaslt_alone

finish

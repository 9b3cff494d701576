#!/bin/sh
# Finds what building and testing need and is not here, and installs it where apt-get can.
#
#   .ci/setup.sh build      to build: compiler, Jansson, zlib
#   .ci/setup.sh check      to build and test
#   .ci/setup.sh valgrind   the same and valgrind
#   .ci/setup.sh coverage   the same as check and gcovr
#   .ci/setup.sh arm        to cross-compile for AArch64 and test in an emulator
#   .ci/setup.sh ci         all of it, with the second compiler
#
# Says in a line each what it installs and why. Where nothing is missing it says nothing and does
# not touch the network; where there is no apt-get it names what is missing and fails.

purpose=${1:-build}
packages=

missing() {
    echo "setup: $1 is missing ($2)"
    packages="$packages $1"
}

have() {
    command -v "$1" > /dev/null 2>&1
}

# What tests pass over where it is neither here nor can be installed.
wanted() {
    if have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; then
        missing "$@"
    fi
}

have_library() {
    have pkg-config && pkg-config --exists "$1"
}

# The C library's headers are a package of their own, which gcc only recommends.
have_c_headers() {
    echo '#include <stdlib.h>' | "${CC:-cc}" -E - > /dev/null 2>&1
}

# The runtime of clang's sanitizers and of libFuzzer, which clang only recommends.
have_fuzzer() {
    program=$(mktemp) || return 1
    echo 'int LLVMFuzzerTestOneInput(const char *d, long n); \
        int LLVMFuzzerTestOneInput(const char *d, long n) { return !d && n; }' |
        clang -x c -fsanitize=fuzzer,address,undefined - -o "$program" > /dev/null 2>&1
    status=$?
    rm -f "$program"
    return $status
}

find_build() {
    have "${CC:-cc}" || missing gcc 'C compiler'
    have_c_headers || missing libc6-dev 'headers of the C library'
    have make || missing make 'runs the Makefile'
    have pkg-config || missing pkg-config 'finds the libraries'
    have_library jansson || missing libjansson-dev 'JSON, for configurations and tokenizers'
    have_library zlib || missing zlib1g-dev 'compression and checksums'
}

find_check() {
    have "${CXX:-c++}" || missing g++ 'tests hymba.h as C++'
    have_library check || missing check 'unit tests'
    have abidiff || wanted abigail-tools 'tests the binary interface'
    have python3 || wanted python3 'tests the Python example'
    have rustc || wanted rustc 'tests the Rust example'
    have go || wanted golang-go 'tests the Go example'
}

find_coverage() {
    have gcovr || missing gcovr 'sums up coverage'
}

find_valgrind() {
    have valgrind || missing valgrind 'tests for memory errors'
}

# Headers and libraries of the other architecture lie beside the machine's own, which alone is what
# pkg-config knows by default.
have_arm_library() {
    have pkg-config &&
        PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig pkg-config --exists "$1"
}

find_arm() {
    have aarch64-linux-gnu-gcc || missing gcc-aarch64-linux-gnu 'compiler for AArch64'
    echo '#include <stdlib.h>' | aarch64-linux-gnu-gcc -E - > /dev/null 2>&1 ||
        missing libc6-dev-arm64-cross 'headers of the C library for AArch64'
    have qemu-aarch64 || missing qemu-user 'runs programs for AArch64'
    have make || missing make 'runs the Makefile'
    have pkg-config || missing pkg-config 'finds the libraries'
    have_arm_library jansson || missing libjansson-dev:arm64 'JSON'
    have_arm_library zlib || missing zlib1g-dev:arm64 'compression and checksums'
    have_arm_library check || missing check:arm64 'unit tests'
}

case $purpose in
build) find_build ;;
check) find_build && find_check ;;
valgrind) find_build && find_check && find_valgrind ;;
coverage) find_build && find_check && find_coverage ;;
arm) find_arm ;;
ci)
    find_build && find_check && find_valgrind
    have clang || missing clang 'second compiler'
    have_fuzzer || missing libclang-rt-dev 'fuzz targets'
    ;;
*)
    echo "usage: setup.sh build|check|valgrind|coverage|arm|ci" >&2
    exit 2
    ;;
esac

[ -z "$packages" ] && exit 0

if ! have apt-get; then
    echo "setup: install these (names as on Debian) and run again:$packages" >&2
    exit 1
fi

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! have sudo; then
        echo "setup: not root and no sudo; run as root: apt-get install$packages" >&2
        exit 1
    fi
    as_root=sudo
fi

# env, since sudo does not pass the variable on.
apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" < /dev/null
}

# Old lists may name files that are gone, so a failed installation is tried once more with new ones.
install_packages() {
    apt install -y --no-install-recommends $packages
}

case $packages in
*:arm64*) $as_root dpkg --add-architecture arm64 ;;
esac

echo "setup: installing$packages"
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
if ls /var/lib/apt/lists/*_Packages* > /dev/null 2>&1 && install_packages > "$log" 2>&1; then
    exit 0
fi
if apt update > "$log" 2>&1 && install_packages >> "$log" 2>&1; then
    exit 0
fi
cat "$log" >&2
echo "setup: apt-get could not install$packages" >&2
exit 1

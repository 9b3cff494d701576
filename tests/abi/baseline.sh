#!/bin/sh
# Prints the binary interface as libabigail reads it from debug information: the functions, and the
# types of hymba.h that they reach. lib/libhymba.abi is this output; `make abi-baseline` renews it.
# HYMBA_GCC may name a compiler other than gcc.
#
# What is read is a library of lib/*.c alone, where every function is defined, built for this by gcc
# without optimisation. The product will not do: its optimiser makes one function of several equal
# ones, which versions of gcc decide differently, and clang describes the same types otherwise.
# Left out is what differs without a difference to programs: places in files, names of parameters,
# needed libraries, types that hymba.h does not define.

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
abi=$(sed -n 's/^.define HYMBA_ABI //p' include/hymba.h)

objects=
for source in lib/*.c; do
    object=$work/$(basename "$source" .c).o
    ${HYMBA_GCC:-gcc} -std=c11 -D_XOPEN_SOURCE=700 -Iinclude -Isrc -O0 -g -fPIC \
        -fvisibility=hidden -w -c "$source" -o "$object" || exit 1
    objects="$objects $object"
done
# What src/ defines stays undefined, as a shared library may leave it.
${HYMBA_GCC:-gcc} -shared -nostdlib -Wl,-soname,"libhymba.so.$abi" \
    -Wl,--version-script=lib/hymba.map -o "$work/libhymba.so.$abi" $objects || exit 1

abidw --headers-dir include --drop-private-types --exported-interfaces-only --no-comp-dir-path \
    --no-corpus-path --no-show-locs --no-elf-needed --no-parameter-names --type-id-style hash \
    "$work/libhymba.so.$abi"

#!/bin/sh
# Installs under DESTDIR, builds a program against each library with pkg-config alone, runs both,
# and removes everything again.

. tests/support/script.sh

CC=${CC:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# The install target finds the objects again by their flags, which make passes on by itself.
MAKE=${MAKE:-make}
expect "install" $MAKE --no-print-directory install DESTDIR="$work" PREFIX=/opt/hymba
prefix=$work/opt/hymba

# With the files in DESTDIR, pkg-config must put it before the paths of hymba.pc, but not before
# those of the other packages.
if ! command -v pkg-config > /dev/null 2>&1; then
    skip "programs against the installed library" "no pkg-config here"
    finish
fi
flags() {
    PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --define-variable=prefix="$prefix" \
        --define-variable=libdir="$prefix/lib" --define-variable=includedir="$prefix/include" \
        "$@" hymba
}

cat > "$work/program.c" << 'END'
#include <hymba.h>
#include <stdio.h>
#include <string.h>

/* Names of a program's own that the library has too: they must not meet. */
int hy_fail(void);
int hy_fail(void)
{
    return 0;
}

int main(void)
{
    char version[64];
    snprintf(version, sizeof version, "%d.%d.%d", HYMBA_VERSION_MAJOR, HYMBA_VERSION_MINOR,
             HYMBA_VERSION_PATCH);
    return hy_fail() || strcmp(version, hymba_version_string()) != 0 ||
           hymba_abi_version() != HYMBA_ABI;
}
END

expect "hymba.pc gives flags" flags --cflags --libs
expect "version of hymba.pc" test "$(flags --modversion)" = \
    "$(sed -n 's/^.define HYMBA_VERSION_[A-Z]* //p' include/hymba.h | paste -s -d. -)"

expect "compile against the shared library" $CC $HYMBA_FLAGS -o "$work/shared" "$work/program.c" \
    $(flags --cflags --libs)
expect "run with the shared library" env LD_LIBRARY_PATH="$prefix/lib" "$work/shared"

# -l:libhymba.a, since the linker would take the shared library that lies beside it.
static_libs=$(flags --libs --static | sed 's/-lhymba/-l:libhymba.a/')
expect "compile against the static library" $CC $HYMBA_FLAGS -o "$work/static" \
    "$work/program.c" $(flags --cflags) $static_libs
expect "run with the static library" "$work/static"
if objdump -p "$work/static" 2>&1 | grep -q "NEEDED.*libhymba\|No such file"; then
    fail "the static program stands alone" "it is not there or wants libhymba.so"
else
    pass "the static program stands alone"
fi

expect "the installed command" "$prefix/bin/hymba" --help

expect "uninstall" $MAKE --no-print-directory uninstall DESTDIR="$work" PREFIX=/opt/hymba
left=$(find "$prefix" ! -type d)
if [ -z "$left" ]; then
    pass "nothing is left"
else
    fail "nothing is left" "$left"
fi

finish

#!/bin/sh
# The objects of the release, archive and shared library, call nothing that ends the process,
# prints, starts another, or changes what belongs to the whole process; and they define nothing for
# others but hymba_ names.
#
# A compiler's option may put calls of its own into the objects. Those that end the process where
# memory is already overwritten (-fstack-protector: __stack_chk_fail; -D_FORTIFY_SOURCE: the checks
# inside __memcpy_chk and its like) are allowed, since whoever packages the library asks for them;
# the sanitizers' are many, and a sanitized build is not scanned.

. tests/support/script.sh

NM=${NM:-nm}
CC=${CC:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
LC_ALL=C
export LC_ALL
abi=$(sed -n 's/^.define HYMBA_ABI //p' include/hymba.h)

# Also what the C library calls them inside its headers' macros (-D_FORTIFY_SOURCE, setjmp).
cat > "$work/banned" << 'END'
ends the process: abort exit _exit _Exit quick_exit __assert_fail __assert_perror_fail __assert
 err errx verr verrx error pthread_exit
jumps: longjmp _longjmp siglongjmp __longjmp_chk setjmp _setjmp __sigsetjmp swapcontext setcontext
signals: signal bsd_signal sigaction sigprocmask raise kill killpg tgkill
 pthread_kill sigqueue sigaltstack alarm setitimer timer_create siginterrupt __sysv_signal
locale: setlocale uselocale newlocale freelocale
prints: stdout stderr printf vprintf puts putchar putc_unlocked putchar_unlocked fputc_unlocked
 __printf_chk __vprintf_chk perror psignal warn warnx vwarn vwarnx dprintf vdprintf __dprintf_chk
 __vdprintf_chk syslog vsyslog
reads what is not its own: stdin getchar scanf vscanf gets getpass
starts processes: system popen fork vfork _Fork clone posix_spawn posix_spawnp execl execle execlp
 execv execve execvp execvpe fexecve daemon
changes the process: atexit __cxa_atexit on_exit at_quick_exit pthread_atfork setenv putenv
 unsetenv clearenv chdir fchdir chroot umask setrlimit setpriority nice setuid setgid mlockall
 tzset srand srandom srand48 rand random drand48 strtok fesetround fesetenv feupdateenv
 feenableexcept fedisableexcept prctl sched_setaffinity mallopt malloc_trim
END
sed 's/^[^ ].*://' "$work/banned" | tr -s ' ' '\n' | grep . | sort -u > "$work/names"

# calls NM-OPTION FILE: the names that it takes from elsewhere, weak ones included.
calls() {
    $NM $1 --undefined-only "$2" 2> /dev/null | awk 'NF >= 2 { print $NF }' | sed 's/@.*//' |
        sort -u
}

# scan NAME NM-OPTION FILE
scan() {
    calls "$2" "$3" > "$work/calls"
    found=$(comm -12 "$work/calls" "$work/names" | tr '\n' ' ')
    if ! grep -qx memcpy "$work/calls"; then
        fail "calls of $1" "not read"
    elif [ -n "$found" ]; then
        fail "calls of $1" "banned: $found"
    else
        pass "calls of $1"
    fi
}

# defines NAME NM-OPTION FILE: the names that another object could meet.
defines() {
    found=$($NM $2 --defined-only "$3" 2> /dev/null | awk 'NF == 3 && $2 != "A" { print $3 }' |
        sed 's/@.*//' | sort -u)
    foreign=$(echo "$found" | grep -v '^hymba_' | tr '\n' ' ')
    if [ -z "$found" ]; then
        fail "names of $1" "none found"
    elif [ -n "$foreign" ]; then
        fail "names of $1" "not hymba_: $foreign"
    else
        pass "names of $1 begin with hymba_"
    fi
}

# Threads of the library must not run the host's signal handlers. They begin with the mask of their
# creator, who therefore has another one for that moment; tests/base/test_thread.c sees that it is
# the old one afterwards. No other place may set a mask.
if found=$(grep -rnw pthread_sigmask src lib | grep -v '^src/base/thread\.c:'); then
    fail "signal masks are set in src/base/thread.c alone" "$found"
else
    pass "signal masks are set in src/base/thread.c alone"
fi

# The plug-in of a device, which a context asks for by name, is the one thing that the library runs
# without being linked with it.
if found=$(grep -rnw dlopen src lib | grep -v '^src/backend/[a-z]*\.[ch]:'); then
    fail "plug-ins are opened in src/backend alone" "$found"
else
    pass "plug-ins are opened in src/backend alone"
fi

if [ -n "$HYMBA_SANITIZE" ]; then
    skip "scan of the objects" "a sanitized build"
    finish
fi

# The scan finds what it looks for.
cat > "$work/bad.c" << 'END'
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
void bad(jmp_buf place, void *to, const void *from, size_t size);
void bad(jmp_buf place, void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    fprintf(stderr, "%p", to);
    signal(SIGINT, SIG_IGN);
    if (size > 9)
        longjmp(place, 1);
    abort();
}
END
expect "an object with banned calls" $CC -O1 -c -o "$work/bad.o" "$work/bad.c"
calls -g "$work/bad.o" > "$work/calls"
found=$(comm -12 "$work/calls" "$work/names" | tr '\n' ' ')
case $found in
'abort longjmp '*'signal stderr ') pass "the scan finds its calls" ;;
*) fail "the scan finds its calls" "found only: $found" ;;
esac

scan "the archive" -g "$HYMBA_BUILD/libhymba.a"
scan "the shared library" -D "$HYMBA_BUILD/libhymba.so.$abi"
defines "the archive" -g "$HYMBA_BUILD/libhymba.a"
defines "the shared library" -D "$HYMBA_BUILD/libhymba.so.$abi"

finish

/* For RTLD_NEXT and the calls for large files, which are functions of their own where off_t is
 * small: both are defined here, so the macro that makes one of them must go. */
#undef _FILE_OFFSET_BITS
#undef _XOPEN_SOURCE
#define _GNU_SOURCE

#include "fault_injection.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct fault armed;
static _Atomic bool is_armed;
static _Atomic long n_calls, n_hits;
static _Atomic long json_blocks, threads, mappings;

const char *fault_call_name(enum fault_call call)
{
    static const char *const names[FAULT_CALLS] = {
        [FAULT_HOST] = "allocation", [FAULT_JSON] = "JSON allocation",
        [FAULT_PROGRESS] = "cancel", [FAULT_SINK] = "write function",
        [FAULT_ACCESS] = "access",   [FAULT_STAT] = "stat",
        [FAULT_MKDIR] = "mkdir",     [FAULT_OPEN] = "open",
        [FAULT_FSTAT] = "fstat",     [FAULT_READ] = "read",
        [FAULT_MMAP] = "mmap",       [FAULT_WRITE] = "write",
        [FAULT_FSYNC] = "fsync",     [FAULT_RENAME] = "rename",
        [FAULT_CLOSE] = "close",     [FAULT_FOPEN] = "fopen",
        [FAULT_THREAD] = "pthread_create",
        [FAULT_LOCK] = "pthread_mutex_init",
    };
    return names[call];
}

void fault_arm(const struct fault *fault)
{
    armed = *fault;
    atomic_store(&n_calls, 0);
    atomic_store(&n_hits, 0);
    atomic_store(&is_armed, true);
}

long fault_disarm(void)
{
    atomic_store(&is_armed, false);
    return atomic_load(&n_hits);
}

long fault_seen(void)
{
    return atomic_load(&n_calls);
}

static bool strikes(enum fault_call call)
{
    if (!atomic_load(&is_armed) || armed.call != call)
        return false;
    long number = atomic_fetch_add(&n_calls, 1);
    if (number < armed.at || (armed.manner == FAULT_ONCE && number != armed.at) ||
        (armed.manner == FAULT_EVERY_OTHER && (number - armed.at) % 2 != 0))
        return false;
    atomic_fetch_add(&n_hits, 1);
    if (armed.manner == FAULT_KILL)
        kill(getpid(), SIGKILL);
    return true;
}

static bool fails(enum fault_call call)
{
    if (!strikes(call))
        return false;
    errno = armed.code;
    return true;
}

bool fault_sink(void)
{
    return strikes(FAULT_SINK);
}

struct fault_balance fault_balance(void)
{
    return (struct fault_balance){
        .json_blocks = atomic_load(&json_blocks),
        .threads = atomic_load(&threads),
        .mappings = atomic_load(&mappings),
    };
}

/* The system's function of that name. */
#define next_function(pointer, name) (*(void **)(pointer) = dlsym(RTLD_NEXT, name))

/* ------------------------------------------------------------ calls on files */

static int open_next(const char *name, const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...);
    if (fails(FAULT_OPEN))
        return -1;
    next_function(&next, name);
    return next(path, flags, mode);
}

static mode_t mode_argument(int flags, va_list arguments)
{
    return flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_argument(flags, arguments);
    va_end(arguments);
    return open_next("open", path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_argument(flags, arguments);
    va_end(arguments);
    return open_next("open64", path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    FILE *(*next)(const char *, const char *);
    if (fails(FAULT_FOPEN))
        return NULL;
    next_function(&next, "fopen");
    return next(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    return fopen(path, mode);
}

int access(const char *path, int mode)
{
    int (*next)(const char *, int);
    if (fails(FAULT_ACCESS))
        return -1;
    next_function(&next, "access");
    return next(path, mode);
}

int stat(const char *path, struct stat *status)
{
    int (*next)(const char *, struct stat *);
    if (fails(FAULT_STAT))
        return -1;
    next_function(&next, "stat");
    return next(path, status);
}

int stat64(const char *path, struct stat64 *status)
{
    int (*next)(const char *, struct stat64 *);
    if (fails(FAULT_STAT))
        return -1;
    next_function(&next, "stat64");
    return next(path, status);
}

int mkdir(const char *path, mode_t mode)
{
    int (*next)(const char *, mode_t);
    if (fails(FAULT_MKDIR))
        return -1;
    next_function(&next, "mkdir");
    return next(path, mode);
}

int fstat(int descriptor, struct stat *status)
{
    int (*next)(int, struct stat *);
    if (fails(FAULT_FSTAT))
        return -1;
    next_function(&next, "fstat");
    return next(descriptor, status);
}

int fstat64(int descriptor, struct stat64 *status)
{
    int (*next)(int, struct stat64 *);
    if (fails(FAULT_FSTAT))
        return -1;
    next_function(&next, "fstat64");
    return next(descriptor, status);
}

/* What a read or write may transfer; -1: it fails. */
static ssize_t allowed(enum fault_call call, size_t size)
{
    if (!strikes(call))
        return (ssize_t)size;
    if (armed.manner == FAULT_NOTHING)
        return 0;
    if (armed.manner == FAULT_SHORT)
        return (ssize_t)(size + 2) / 3;
    errno = armed.code;
    return -1;
}

ssize_t read(int descriptor, void *data, size_t size)
{
    ssize_t (*next)(int, void *, size_t);
    ssize_t count = allowed(FAULT_READ, size);
    if (count < 0)
        return -1;
    next_function(&next, "read");
    return next(descriptor, data, (size_t)count);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    ssize_t (*next)(int, const void *, size_t);
    ssize_t count = allowed(FAULT_WRITE, size);
    if (count <= 0 && size > 0)
        return count;
    next_function(&next, "write");
    return next(descriptor, data, (size_t)count);
}

static void *mmap_next(const char *name, void *address, size_t size, int protection, int flags,
                       int descriptor, off64_t offset)
{
    void *(*next)(void *, size_t, int, int, int, off64_t);
    if (descriptor >= 0 && fails(FAULT_MMAP))
        return MAP_FAILED;
    next_function(&next, name);
    void *result = next(address, size, protection, flags, descriptor, offset);
    if (descriptor >= 0 && result != MAP_FAILED)
        atomic_fetch_add(&mappings, 1);
    return result;
}

/* Only the library maps and unmaps by these names here; the C library has its own. */
int munmap(void *address, size_t size)
{
    int (*next)(void *, size_t);
    next_function(&next, "munmap");
    atomic_fetch_sub(&mappings, 1);
    return next(address, size);
}

void *mmap(void *address, size_t size, int protection, int flags, int descriptor, off_t offset)
{
    return mmap_next("mmap64", address, size, protection, flags, descriptor, offset);
}

void *mmap64(void *address, size_t size, int protection, int flags, int descriptor, off64_t offset)
{
    return mmap_next("mmap64", address, size, protection, flags, descriptor, offset);
}

int fsync(int descriptor)
{
    int (*next)(int);
    if (fails(FAULT_FSYNC))
        return -1;
    next_function(&next, "fsync");
    return next(descriptor);
}

int rename(const char *from, const char *to)
{
    int (*next)(const char *, const char *);
    if (fails(FAULT_RENAME))
        return -1;
    next_function(&next, "rename");
    return next(from, to);
}

int close(int descriptor)
{
    int (*next)(int);
    next_function(&next, "close");
    int result = next(descriptor);
    return fails(FAULT_CLOSE) ? -1 : result;
}

/* ------------------------------------------------------------ threads, JSON */

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *argument)
{
    int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (strikes(FAULT_THREAD))
        return armed.code;
    next_function(&next, "pthread_create");
    int result = next(thread, attributes, run, argument);
    if (result == 0)
        atomic_fetch_add(&threads, 1);
    return result;
}

int pthread_join(pthread_t thread, void **value)
{
    int (*next)(pthread_t, void **);
    next_function(&next, "pthread_join");
    int result = next(thread, value);
    if (result == 0)
        atomic_fetch_sub(&threads, 1);
    return result;
}

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes)
{
    int (*next)(pthread_mutex_t *, const pthread_mutexattr_t *);
    if (strikes(FAULT_LOCK))
        return armed.code;
    next_function(&next, "pthread_mutex_init");
    return next(mutex, attributes);
}

/* Not handed on: of the two that the C library has under this name, dlsym finds the old one. */
int pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attributes)
{
    static const pthread_cond_t fresh = PTHREAD_COND_INITIALIZER;
    (void)attributes; /* the library has none */
    if (strikes(FAULT_LOCK))
        return armed.code;
    *condition = fresh;
    return 0;
}

static void *json_alloc(size_t size)
{
    void *block = NULL;
    if (!fails(FAULT_JSON))
        block = malloc(size);
    if (block)
        atomic_fetch_add(&json_blocks, 1);
    else
        errno = ENOMEM; /* as malloc does */
    return block;
}

static void json_free(void *block)
{
    if (block)
        atomic_fetch_sub(&json_blocks, 1);
    free(block);
}

void fault_install(void)
{
    json_set_alloc_funcs(json_alloc, json_free);
}

long *fault_shared_counter(void)
{
    void *counter = mmap(NULL, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                         -1, 0);
    return counter == MAP_FAILED ? NULL : counter;
}

/* For unshare, which POSIX does not have. */
#undef _XOPEN_SOURCE
#define _GNU_SOURCE

#include "full_disk.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

static bool write_text(const char *path, const char *text)
{
    int descriptor = open(path, O_WRONLY);
    if (descriptor < 0)
        return false;
    bool written = write(descriptor, text, strlen(text)) == (ssize_t)strlen(text);
    close(descriptor);
    return written;
}

/* Mounts of its own: as the administrator, or as one in a world of its own. */
static bool enter_namespaces(void)
{
    char map[64];
    unsigned user = geteuid(), group = getegid();
    if (unshare(CLONE_NEWNS) == 0)
        return true;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return false;
    snprintf(map, sizeof map, "0 %u 1", user);
    if (!write_text("/proc/self/setgroups", "deny") || !write_text("/proc/self/uid_map", map))
        return false;
    snprintf(map, sizeof map, "0 %u 1", group);
    return write_text("/proc/self/gid_map", map);
}

bool full_disk_mount(const char *directory, size_t bytes)
{
    char options[64];
    snprintf(options, sizeof options, "size=%zu", bytes);
    return enter_namespaces() && mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", directory, "tmpfs", 0, options) == 0;
}

void full_disk_unmount(const char *directory)
{
    umount2(directory, MNT_DETACH);
}

bool full_disk_fill(const char *path, size_t bytes_left)
{
    static const char zeros[1 << 12];
    struct statvfs space;
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (descriptor < 0)
        return false;
    bool written = fstatvfs(descriptor, &space) == 0;
    unsigned long long room = written ? (unsigned long long)space.f_bavail * space.f_frsize : 0;
    for (; written && room > bytes_left; room -= sizeof zeros)
        written = write(descriptor, zeros, sizeof zeros) == (ssize_t)sizeof zeros;
    close(descriptor);
    return written;
}

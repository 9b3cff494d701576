/* For sched_getaffinity, which POSIX does not have. */
#define _GNU_SOURCE

#include "base/processor.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * A group's own directory and all those above it have limits of their own, and the tightest one
 * counts. Where they lie is known from /proc: the process's path inside a hierarchy from
 * /proc/self/cgroup, and which part of the hierarchy is mounted where from /proc/self/mountinfo
 * (a container often sees only its own part).
 */

enum { MAX_LINE = 4096, MAX_PATH = 2 * MAX_LINE };

/* Version 2 has one hierarchy for everything, version 1 one that holds the CPU controller. */
enum version { VERSION_1 = 1, VERSION_2 = 2 };

/* The next line without its end, cut off at size - 1 bytes; false at the end of the file. */
static bool next_line(FILE *file, char *line, size_t size)
{
    if (!fgets(line, (int)size, file))
        return false;
    size_t length = strlen(line);
    if (length > 0 && line[length - 1] == '\n')
        line[length - 1] = '\0';
    else
        for (int rest = getc(file); rest != EOF && rest != '\n';)
            rest = getc(file);
    return true;
}

static FILE *open_below(const char *root, const char *name)
{
    char path[MAX_PATH];
    int length = snprintf(path, sizeof path, "%s%s", root, name);
    return length > 0 && (size_t)length < sizeof path ? fopen(path, "re") : NULL;
}

/* Whether a comma stands between the names of a list, one of which is the wanted one. */
static bool lists(const char *list, size_t length, const char *wanted)
{
    size_t size = strlen(wanted);
    for (size_t begin = 0, end; begin <= length; begin = end + 1) {
        for (end = begin; end < length && list[end] != ',';)
            end++;
        if (end - begin == size && memcmp(list + begin, wanted, size) == 0)
            return true;
    }
    return false;
}

/* The version's line of /proc/self/cgroup, "0::PATH" or "ID:...,cpu,...:PATH"; PATH or NULL. */
static const char *group_in(const char *line, enum version version)
{
    const char *list = strchr(line, ':');
    const char *path = list ? strchr(list + 1, ':') : NULL;
    if (!path || path[1] != '/')
        return NULL;
    size_t length = (size_t)(path - list - 1);
    bool found = version == VERSION_2 ? line[0] == '0' && list == line + 1 && length == 0
                                      : lists(list + 1, length, "cpu");
    return found ? path + 1 : NULL;
}

/* The process's path in the hierarchy of that version. */
static bool find_group(const char *root, enum version version, char group[MAX_LINE])
{
    char line[MAX_LINE];
    bool found = false;
    FILE *file = open_below(root, "/proc/self/cgroup");
    while (file && !found && next_line(file, line, sizeof line)) {
        const char *path = group_in(line, version);
        found = path != NULL;
        if (found)
            memcpy(group, path, strlen(path) + 1);
    }
    if (file)
        fclose(file);
    return found;
}

/* Spaces, tabs, line ends and backslashes of a path in mountinfo are three octal digits. */
static void decode_path(char *path)
{
    char *to = path;
    for (const char *from = path; *from; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
            from[2] <= '7' && from[3] >= '0' && from[3] <= '7') {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* Where a part of a hierarchy is mounted. */
struct mount {
    char part[MAX_LINE]; /* its top group's path in the hierarchy */
    char point[MAX_LINE];
};

enum { FIELDS_BEFORE_OPTIONS = 6, PART = 3, POINT = 4 };

/*
 * A line of mountinfo: "ID PARENT DEVICE PART POINT OPTIONS [MORE...] - TYPE SOURCE SUPEROPTIONS".
 * True for a hierarchy of that version.
 */
static bool read_mount(char *line, enum version version, struct mount *mount)
{
    char *fields[FIELDS_BEFORE_OPTIONS], *rest = NULL;
    char *behind = strstr(line, " - ");
    if (!behind)
        return false;
    *behind = '\0';
    const char *type = strtok_r(behind + 3, " ", &rest);
    const char *source = strtok_r(NULL, " ", &rest);
    const char *options = strtok_r(NULL, " ", &rest);
    if (!type || !source || !options)
        return false;
    if (strcmp(type, version == VERSION_2 ? "cgroup2" : "cgroup") != 0 ||
        (version == VERSION_1 && !lists(options, strlen(options), "cpu")))
        return false;
    for (size_t i = 0; i < FIELDS_BEFORE_OPTIONS; i++) {
        fields[i] = strtok_r(i == 0 ? line : NULL, " ", &rest);
        if (!fields[i])
            return false;
    }
    decode_path(fields[PART]);
    decode_path(fields[POINT]);
    memcpy(mount->part, fields[PART], strlen(fields[PART]) + 1);
    memcpy(mount->point, fields[POINT], strlen(fields[POINT]) + 1);
    return true;
}

static bool find_mount(const char *root, enum version version, struct mount *mount)
{
    char line[MAX_LINE];
    bool found = false;
    FILE *file = open_below(root, "/proc/self/mountinfo");
    while (file && !found && next_line(file, line, sizeof line))
        found = read_mount(line, version, mount);
    if (file)
        fclose(file);
    return found;
}

/* The group's path below the mounted part; "" where it lies outside, as a parent's view of a
 * container does: then the part's own limits are all that can be seen. */
static const char *path_below(const char *group, const char *part)
{
    size_t length = strcmp(part, "/") == 0 ? 0 : strlen(part);
    const char *path = group + length;
    if (strncmp(group, part, length) != 0 || (*path && *path != '/') || strstr(path, "/.."))
        return "";
    return strcmp(path, "/") == 0 ? "" : path;
}

/* "max" is 0, as is everything that is no positive number. */
static long read_number(const char *text, char **end)
{
    long value = strtol(text, end, 10);
    return value > 0 && value < LONG_MAX ? value : 0;
}

/* Quota and period of a version 2 group stand in one file, those of version 1 in two. */
static bool read_limit(const char *directory, enum version version, long *quota, long *period)
{
    static const char *const names[] = {"/cpu.cfs_quota_us", "/cpu.cfs_period_us"};
    char line[128];
    char *end = line;
    *quota = *period = 0;
    if (version == VERSION_2) {
        FILE *file = open_below(directory, "/cpu.max");
        if (file && next_line(file, line, sizeof line)) {
            *quota = read_number(line, &end);
            *period = read_number(end, &end);
        }
        if (file)
            fclose(file);
    } else {
        for (int i = 0; i < 2; i++) {
            FILE *file = open_below(directory, names[i]);
            if (file && next_line(file, line, sizeof line))
                *(i == 0 ? quota : period) = read_number(line, &end);
            if (file)
                fclose(file);
        }
    }
    return *quota > 0 && *period > 0;
}

static unsigned tighter(unsigned limit, long quota, long period)
{
    long count = quota / period + (quota % period > 0);
    if (count > INT_MAX || (limit > 0 && (unsigned)count > limit))
        return limit;
    return (unsigned)count;
}

/* From the process's group up to the mount point. */
static unsigned tightest_quota(const char *root, enum version version)
{
    char directory[MAX_PATH], group[MAX_LINE];
    struct mount mount;
    unsigned limit = 0;
    if (!find_group(root, version, group) || !find_mount(root, version, &mount))
        return 0;
    int top = snprintf(directory, sizeof directory, "%s%s", root, mount.point);
    int length = snprintf(directory, sizeof directory, "%s%s%s", root, mount.point,
                          path_below(group, mount.part));
    if (length < 0 || (size_t)length >= sizeof directory)
        return 0;
    for (;;) {
        long quota, period;
        if (read_limit(directory, version, &quota, &period))
            limit = tighter(limit, quota, period);
        char *slash = strrchr(directory + top, '/');
        if (!slash)
            return limit;
        *slash = '\0';
    }
}

unsigned hy_quota_processors(const char *root)
{
    unsigned first = tightest_quota(root, VERSION_1), second = tightest_quota(root, VERSION_2);
    return first > 0 && (second == 0 || first < second) ? first : second;
}

unsigned hy_processor_count(void)
{
    cpu_set_t sets[16]; /* the call fails where the machine could have more processors than bits */
    unsigned count = 0, quota = hy_quota_processors("");
    if (sched_getaffinity(0, sizeof sets, sets) == 0)
        count = (unsigned)CPU_COUNT_S(sizeof sets, sets);
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 ? (unsigned)online : 1;
    }
    return quota > 0 && quota < count ? quota : count;
}

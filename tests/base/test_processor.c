/* The CPU quota of control groups, in the forms that systems and containers show them. */
#include "base/processor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"

enum { MAX_FILES = 8 };

#define GROUP "/proc/self/cgroup"
#define MOUNTS "/proc/self/mountinfo"
#define WHOLE_V2 "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define WHOLE_V1                                                                                  \
    "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"

static const struct {
    const char *name;
    unsigned expected;
    struct {
        const char *path, *text;
    } files[MAX_FILES];
} cases[] = {
    {"nothing there", 0, {{NULL, NULL}}},
    {"no limit", 0,
     {{GROUP, "0::/\n"}, {MOUNTS, WHOLE_V2}, {"/sys/fs/cgroup/cpu.max", "max 100000\n"}}},
    {"a container's own root", 2,
     {{GROUP, "0::/\n"}, {MOUNTS, WHOLE_V2}, {"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}},
    {"rounded up", 2,
     {{GROUP, "0::/\n"}, {MOUNTS, WHOLE_V2}, {"/sys/fs/cgroup/cpu.max", "100001 100000\n"}}},
    {"less than one", 1,
     {{GROUP, "0::/\n"}, {MOUNTS, WHOLE_V2}, {"/sys/fs/cgroup/cpu.max", "1000 100000\n"}}},
    {"the process's own group", 3,
     {{GROUP, "0::/user.slice/run-1.scope\n"},
      {MOUNTS, WHOLE_V2},
      {"/sys/fs/cgroup/user.slice/cpu.max", "max 100000\n"},
      {"/sys/fs/cgroup/user.slice/run-1.scope/cpu.max", "150000 50000\n"}}},
    {"the tightest is above it", 2,
     {{GROUP, "0::/a/b/c\n"},
      {MOUNTS, WHOLE_V2},
      {"/sys/fs/cgroup/a/cpu.max", "200000 100000\n"},
      {"/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"},
      {"/sys/fs/cgroup/a/b/c/cpu.max", "700000 100000\n"}}},
    {"the tightest is the root", 1,
     {{GROUP, "0::/a\n"},
      {MOUNTS, WHOLE_V2},
      {"/sys/fs/cgroup/cpu.max", "100000 100000\n"},
      {"/sys/fs/cgroup/a/cpu.max", "500000 100000\n"}}},
    {"another group's limit", 0,
     {{GROUP, "0::/a/b\n"},
      {MOUNTS, WHOLE_V2},
      {"/sys/fs/cgroup/ab/cpu.max", "100000 100000\n"},
      {"/sys/fs/cgroup/a/c/cpu.max", "100000 100000\n"}}},
    {"a part is mounted", 4,
     {{GROUP, "0::/machine/box/work\n"},
      {MOUNTS, "5 4 0:26 /machine/box /cgroup rw - cgroup2 none rw\n"},
      {"/cgroup/work/cpu.max", "400000 100000\n"},
      {"/cgroup/cpu.max", "max 100000\n"},
      {"/cgroup/machine/box/work/cpu.max", "100000 100000\n"}}},
    {"a part of which the process's group is no part", 5,
     {{GROUP, "0::/machine/boxes\n"},
      {MOUNTS, "5 4 0:26 /machine/box /cgroup rw - cgroup2 none rw\n"},
      {"/cgroup/cpu.max", "500000 100000\n"},
      {"/cgroup/es/cpu.max", "100000 100000\n"}}},
    {"a group outside the name space", 6,
     {{GROUP, "0::/../other\n"},
      {MOUNTS, WHOLE_V2},
      {"/sys/fs/cgroup/cpu.max", "600000 100000\n"},
      {"/sys/fs/other/cpu.max", "100000 100000\n"}}},
    {"names with blanks and backslashes", 2,
     {{GROUP, "0::/a\\x2db/my group\n"},
      {MOUNTS, "5 4 0:26 /a\\134x2db /my\\040groups rw - cgroup2 none rw\n"},
      {"/my groups/my group/cpu.max", "200000 100000\n"}}},
    {"version 1", 3,
     {{GROUP, "5:memory:/a\n4:cpu,cpuacct:/b\n0::/c\n"},
      {MOUNTS, WHOLE_V1},
      {"/sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_quota_us", "300000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_period_us", "100000\n"}}},
    {"version 1 without a limit", 0,
     {{GROUP, "4:cpu,cpuacct:/\n"},
      {MOUNTS, WHOLE_V1},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}}},
    {"version 1, controllers with like names", 0,
     {{GROUP, "4:cpuset:/b\n3:cpuacct:/b\n"},
      {MOUNTS, "5 4 0:26 / /cpuset rw - cgroup cgroup rw,cpuset\n"},
      {"/cpuset/b/cpu.cfs_quota_us", "100000\n"},
      {"/cpuset/b/cpu.cfs_period_us", "100000\n"}}},
    {"version 1 in a container that sees its own part", 2,
     {{GROUP, "4:cpu:/docker/0123\n"},
      {MOUNTS, "5 4 0:26 /docker/0123 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"},
      {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n"},
      {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}},
    {"both versions: the tighter one", 2,
     {{GROUP, "4:cpu,cpuacct:/b\n0::/c\n"},
      {MOUNTS, WHOLE_V1 "30 23 0:26 / /unified rw - cgroup2 cgroup2 rw\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_quota_us", "300000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_period_us", "100000\n"},
      {"/unified/c/cpu.max", "200000 100000\n"}}},
    {"other mounts before it", 2,
     {{GROUP, "0::/\n"},
      {MOUNTS, "1 0 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n2 1 0:5 / /x rw - \n"
               "3 1 0:6 / /cgroup2 rw - tmpfs cgroup2 rw\n" WHOLE_V2},
      {"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}},
    {"numbers that are none", 0,
     {{GROUP, "0::/a/b/c/d\n"},
      {MOUNTS, WHOLE_V2},
      {"/sys/fs/cgroup/a/b/c/d/cpu.max", ""},
      {"/sys/fs/cgroup/a/b/c/cpu.max", "100000"},
      {"/sys/fs/cgroup/a/b/cpu.max", "-100000 100000"},
      {"/sys/fs/cgroup/a/cpu.max", "100000 0"},
      {"/sys/fs/cgroup/cpu.max", "99999999999999999999 100000"}}},
    {"lines that are none", 0,
     {{GROUP, "\n:\n::\n0:\n0::\n0::relative\n4:cpu\n0:cpu:\n"},
      {MOUNTS, "\n - \n - cgroup2 x rw\n1 2 3 4 5 - cgroup2 x rw\n" WHOLE_V2},
      {"/sys/fs/cgroup/cpu.max", "100000 100000\n"}}},
};

enum { N_CASES = sizeof cases / sizeof cases[0] };

/* Writes a file below the root, with the directories it lies in. */
static void put_file(const char *root, const char *name, const char *text)
{
    char path[1024];
    ck_assert_uint_lt((size_t)snprintf(path, sizeof path, "%s%s", root, name), sizeof path);
    for (char *slash = path + strlen(root); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        ck_assert(mkdir(path, 0777) == 0 || errno == EEXIST);
        *slash = '/';
    }
    test_write_file(path, text, strlen(text));
}

START_TEST(quotas)
{
    char root[256];
    snprintf(root, sizeof root, "%s/%d", test_directory(), _i);
    for (size_t i = 0; i < MAX_FILES && cases[_i].files[i].path; i++)
        put_file(root, cases[_i].files[i].path, cases[_i].files[i].text);
    unsigned found = hy_quota_processors(root);
    ck_assert_msg(found == cases[_i].expected, "%s: found %u, expected %u", cases[_i].name, found,
                  cases[_i].expected);
}
END_TEST

/* Lines and paths longer than there is room for are passed over. */
START_TEST(endless_names)
{
    static char text[200000];
    char root[256];
    snprintf(root, sizeof root, "%s/endless", test_directory());
    put_file(root, "/sys/fs/cgroup/cpu.max", "200000 100000\n");
    int length = snprintf(text, sizeof text, "7:name=%0*d:/\n", 100000, 0);
    snprintf(text + length, sizeof text - (size_t)length, "0::/\n");
    put_file(root, GROUP, text);
    length = snprintf(text, sizeof text, "1 0 8:1 / /%0*d rw - ext4 x rw\n", 100000, 0);
    snprintf(text + length, sizeof text - (size_t)length, WHOLE_V2);
    put_file(root, MOUNTS, text);
    ck_assert_uint_eq(hy_quota_processors(root), 2);
    memset(text, 0, sizeof text);
    memcpy(text, "0::", 3);
    for (size_t i = 3; i < sizeof text - 1; i++)
        text[i] = i % 2 ? '/' : 'a';
    put_file(root, GROUP, text);
    ck_assert_uint_eq(hy_quota_processors(root), 2);
}
END_TEST

START_TEST(processors)
{
    unsigned count = hy_processor_count();
    ck_assert_uint_ge(count, 1);
    ck_assert_uint_le(count, (unsigned)sysconf(_SC_NPROCESSORS_CONF));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("processor");
    TCase *tests = tcase_create("processor");
    tcase_add_loop_test(tests, quotas, 0, N_CASES);
    tcase_add_test(tests, endless_names);
    tcase_add_test(tests, processors);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}

#include "process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

bool test_in_child(bool (*run)(void *argument), void *argument)
{
    int status;
    fflush(NULL); /* what is buffered here must not be printed there as well */
    pid_t child = fork();
    if (child < 0)
        return false;
    if (child == 0) {
        alarm(120);
        bool good = run(argument);
        fflush(NULL);
        _exit(good ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == EXIT_SUCCESS;
}

unsigned test_thread_count(void)
{
    unsigned count = 0;
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *entry;
    while (tasks && (entry = readdir(tasks)))
        count += entry->d_name[0] != '.';
    if (tasks)
        closedir(tasks);
    return count;
}

bool test_has_threads(unsigned count)
{
    const struct timespec pause = {0, 1000000};
    if (test_looks_for_races())
        return true;
    for (int turn = 0; test_thread_count() != count && turn < 10000; turn++)
        nanosleep(&pause, NULL);
    return test_thread_count() == count;
}

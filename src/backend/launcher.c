#define _GNU_SOURCE /* secure_getenv */

#include "backend/launcher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/meeting.h"
#include "backend/plugin.h"

enum { MOST_DIGITS = 9 };

static const char meeting_variable[] = "HYMBA_MEETING";

/* A variable that is empty is not set. */
static const char *find(const char *name)
{
    const char *text = secure_getenv(name);
    return text && text[0] != '\0' ? text : NULL;
}

static hymba_status require(const char *name, const char **text, hymba_error *error)
{
    *text = find(name);
    if (*text)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "the environment variable %s is not set: a launcher of ranks sets RANK, "
                   "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT", name);
}

static bool read_digits(const char *text, uint32_t *number)
{
    size_t length = strlen(text);
    if (length > MOST_DIGITS || strspn(text, "0123456789") != length)
        return false;
    *number = 0;
    for (; *text; text++)
        *number = *number * 10 + (uint32_t)(*text - '0');
    return true;
}

static hymba_status read_number(const char *name, uint32_t least, uint32_t most, uint32_t *number,
                                hymba_error *error)
{
    const char *text;
    hymba_status status = require(name, &text, error);
    if (status != HYMBA_OK)
        return status;
    if (read_digits(text, number) && *number >= least && *number <= most)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "the environment variable %s: found \"%.100s\", expected a number from %u to "
                   "%u", name, text, (unsigned)least, (unsigned)most);
}

/* "tcp://ADDRESS:PORT"; an address with colons is IPv6 and stands in brackets. */
static hymba_status read_address(struct hy_launch *launch, hymba_error *error)
{
    const char *address, *port;
    struct hy_place place;
    hymba_status status = require("MASTER_ADDR", &address, error);
    if (status == HYMBA_OK)
        status = require("MASTER_PORT", &port, error);
    if (status != HYMBA_OK)
        return status;
    bool bracket = strchr(address, ':') != NULL;
    snprintf(launch->place, sizeof launch->place, "tcp://%s%.300s%s:%.16s", bracket ? "[" : "",
             address, bracket ? "]" : "", port);
    return hy_place_read(launch->place, "the environment variables MASTER_ADDR and MASTER_PORT",
                         &place, error);
}

static hymba_status read_place(struct hy_launch *launch, hymba_error *error)
{
    const char *text = find(meeting_variable);
    struct hy_place place;
    if (!text) {
        bool none = launch->world_size == 1 && !find("MASTER_ADDR") && !find("MASTER_PORT");
        return none ? HYMBA_OK : read_address(launch, error);
    }
    hymba_status status =
        hy_place_read(text, "the environment variable HYMBA_MEETING", &place, error);
    if (status == HYMBA_OK)
        snprintf(launch->place, sizeof launch->place, "%s", text);
    return status;
}

hymba_status hy_launcher_read(struct hy_launch *launch, bool wants_place, hymba_error *error)
{
    memset(launch, 0, sizeof *launch);
    hymba_status status =
        read_number("WORLD_SIZE", 1, HY_MAX_RANKS, &launch->world_size, error);
    if (status == HYMBA_OK)
        status = read_number("RANK", 0, launch->world_size - 1, &launch->rank, error);
    if (status == HYMBA_OK)
        status = read_number("LOCAL_RANK", 0, HY_MAX_DEVICE_INDEX, &launch->local_rank, error);
    return status == HYMBA_OK && wants_place ? read_place(launch, error) : status;
}

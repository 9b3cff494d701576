#include "ranks.h"

#include "output.h"

/* A process is one rank or none. */
static bool several;

bool ranks_are_several(void)
{
    return several;
}

void add_rank_options(struct option_set *set, struct rank_options *options)
{
    option_integer(set, 0, "rank", &options->rank, 0, 255,
                   "this process computes a part of the model, with others of\n"
                   "the same arguments: which one it is, from 0. It prints\n"
                   "only if it is 0; input comes from files");
    option_integer(set, 0, "world-size", &options->world_size, 1, 256,
                   "how many there are");
    option_text(set, 0, "meeting", "PLACE", &options->meeting,
                "where they meet: tcp://HOST:PORT, where rank 0 listens, or\n"
                "file:/PATH, which rank 0 writes and removes");
    option_integer(set, 0, "rank-timeout", &options->timeout, 1, 86400,
                   "seconds that a rank waits for others, also those of\n"
                "--device cuda:0,1 (default: 60)");
    option_flag(set, 0, "ranks-from-environment", &options->from_environment,
                "rank, world size and, without --meeting, the meeting are\n"
                "what a launcher such as torchrun set: RANK, WORLD_SIZE,\n"
                "LOCAL_RANK; HYMBA_MEETING, or MASTER_ADDR and MASTER_PORT");
}

static int check(const struct option_set *set, const struct rank_options *options)
{
    bool rank = option_given(set, "rank"), world_size = option_given(set, "world-size");
    if (rank != world_size)
        return wrong_usage(set->verb, "--rank and --world-size belong together");
    if (rank && options->from_environment)
        return wrong_usage(set->verb,
                           "--ranks-from-environment excludes --rank and --world-size");
    if (rank && options->rank >= options->world_size)
        return wrong_usage(set->verb, "--rank must be less than --world-size");
    if (rank && options->world_size > 1 && !options->meeting)
        return wrong_usage(set->verb, "--meeting is missing, where %u ranks find each other",
                           (unsigned)options->world_size);
    if (!rank && !options->from_environment && options->meeting)
        return wrong_usage(set->verb, "--meeting is for ranks: give --rank and --world-size, or "
                           "--ranks-from-environment");
    return STATUS_OK;
}

static int read_environment(struct rank_options *options)
{
    hymba_error error;
    size_t needed;
    hymba_error_init(&error, sizeof error);
    hymba_status status = hymba_ranks_from_environment(&options->ranks, options->place,
                                                       sizeof options->place, &needed, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int settle_ranks(const struct option_set *set, struct rank_options *options)
{
    hymba_ranks *ranks = &options->ranks;
    int status = check(set, options);
    if (status != STATUS_OK)
        return status;
    hymba_ranks_init(ranks, sizeof *ranks);
    ranks->rank = (uint32_t)options->rank;
    ranks->world_size = (uint32_t)options->world_size;
    ranks->timeout_ms = (uint32_t)options->timeout * 1000;
    ranks->meeting = options->meeting;
    if (options->from_environment)
        status = read_environment(options);
    several = status == STATUS_OK && ranks->world_size > 1;
    return several && ranks->rank > 0 ? output_silence() : status;
}

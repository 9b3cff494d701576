/*
 * The option parser of all verbs. A verb adds its options, each with the variable that takes its
 * value (which holds the default before), and calls options_parse. Long options are written
 * "--name value" or "--name=value", short ones "-n value". The last of several wins.
 */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPTIONS_MOST = 64, OPTION_ITEMS_MOST = 64 };

/* Values of an option that may be given several times. */
struct option_texts {
    const char *items[OPTION_ITEMS_MOST];
    size_t count;
};

/* A list of numbers, "512,2048". */
struct option_list {
    uint64_t items[OPTION_ITEMS_MOST];
    size_t count;
};

enum option_kind {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_TEXTS,
    OPTION_CHOICE,
    OPTION_INTEGER,
    OPTION_REAL,
    OPTION_LIST
};

struct option {
    const char *name; /* long name, without dashes */
    char letter;      /* short name, or 0 */
    enum option_kind kind;
    bool required;
    bool given;
    const char *value_name; /* in the help; of a CHOICE all values, "f32|f16|bf16" */
    const char *help;
    union {
        bool *flag;
        const char **text;
        struct option_texts *texts;
        uint64_t *integer;
        double *real;
        struct option_list *list;
    } to;
    uint64_t least, most;
    double least_real, most_real;
};

struct option_set {
    const char *verb;
    const char *usage;       /* what follows "hymba VERB" */
    const char *description; /* whole lines */
    struct option items[OPTIONS_MOST];
    size_t count;
};

void options_begin(struct option_set *set, const char *verb, const char *usage,
                   const char *description);

void option_flag(struct option_set *set, char letter, const char *name, bool *to,
                 const char *help);
void option_text(struct option_set *set, char letter, const char *name, const char *value_name,
                 const char **to, const char *help);
void option_texts(struct option_set *set, char letter, const char *name, const char *value_name,
                  struct option_texts *to, const char *help);
void option_choice(struct option_set *set, char letter, const char *name, const char *choices,
                   const char **to, const char *help);
void option_integer(struct option_set *set, char letter, const char *name, uint64_t *to,
                    uint64_t least, uint64_t most, const char *help);
void option_real(struct option_set *set, char letter, const char *name, double *to, double least,
                 double most, const char *help);
void option_list(struct option_set *set, char letter, const char *name, struct option_list *to,
                 uint64_t least, uint64_t most, const char *help);

/* The option added last must be given. */
void option_is_required(struct option_set *set);

/* Reads the arguments behind the verb. False if the verb is not to run: its help was printed, or
 * the usage was wrong and said so; *status is then the exit status. */
bool options_parse(struct option_set *set, int argc, char **argv, int *status);

/* Whether the option of this long name was given. */
bool option_given(const struct option_set *set, const char *name);

#endif

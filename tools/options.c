#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

/* ---------------------------------------------------------------- building */

void options_begin(struct option_set *set, const char *verb, const char *usage,
                   const char *description)
{
    memset(set, 0, sizeof *set);
    set->verb = verb;
    set->usage = usage;
    set->description = description;
}

static struct option *add(struct option_set *set, char letter, const char *name,
                          enum option_kind kind, const char *value_name, const char *help)
{
    if (set->count == OPTIONS_MOST)
        abort(); /* a verb with more options than there is room for: seen when it is written */
    struct option *option = &set->items[set->count++];
    option->name = name;
    option->letter = letter;
    option->kind = kind;
    option->value_name = value_name;
    option->help = help;
    return option;
}

void option_flag(struct option_set *set, char letter, const char *name, bool *to,
                 const char *help)
{
    add(set, letter, name, OPTION_FLAG, NULL, help)->to.flag = to;
}

void option_text(struct option_set *set, char letter, const char *name, const char *value_name,
                 const char **to, const char *help)
{
    add(set, letter, name, OPTION_TEXT, value_name, help)->to.text = to;
}

void option_texts(struct option_set *set, char letter, const char *name, const char *value_name,
                  struct option_texts *to, const char *help)
{
    add(set, letter, name, OPTION_TEXTS, value_name, help)->to.texts = to;
}

void option_choice(struct option_set *set, char letter, const char *name, const char *choices,
                   const char **to, const char *help)
{
    add(set, letter, name, OPTION_CHOICE, choices, help)->to.text = to;
}

void option_integer(struct option_set *set, char letter, const char *name, uint64_t *to,
                    uint64_t least, uint64_t most, const char *help)
{
    struct option *option = add(set, letter, name, OPTION_INTEGER, "N", help);
    option->to.integer = to;
    option->least = least;
    option->most = most;
}

void option_real(struct option_set *set, char letter, const char *name, double *to, double least,
                 double most, const char *help)
{
    struct option *option = add(set, letter, name, OPTION_REAL, "X", help);
    option->to.real = to;
    option->least_real = least;
    option->most_real = most;
}

void option_list(struct option_set *set, char letter, const char *name, struct option_list *to,
                 uint64_t least, uint64_t most, const char *help)
{
    struct option *option = add(set, letter, name, OPTION_LIST, "N,N,...", help);
    option->to.list = to;
    option->least = least;
    option->most = most;
}

void option_is_required(struct option_set *set)
{
    set->items[set->count - 1].required = true;
}

/* -------------------------------------------------------------------- help */

static void print_option(const struct option *option)
{
    char name[256];
    snprintf(name, sizeof name, "%c%c%s--%s%s%s", option->letter ? '-' : ' ',
             option->letter ? option->letter : ' ', option->letter ? ", " : "  ", option->name,
             option->value_name ? " " : "", option->value_name ? option->value_name : "");
    printf(strlen(name) <= 28 ? "  %-28s  " : "  %s\n%32s", name, "");
    for (const char *c = option->help; *c; c++)
        if (*c == '\n')
            printf("\n%32s", "");
        else
            putchar(*c);
    putchar('\n');
}

static void print_help(const struct option_set *set)
{
    printf("usage: hymba %s %s\n\n%s\n\noptions:\n", set->verb, set->usage, set->description);
    for (size_t i = 0; i < set->count; i++)
        print_option(&set->items[i]);
    printf("  %-28s  %s\n", "    --help", "print this text");
}

/* ------------------------------------------------------------------ values */

/* Digits only: no sign, no space, nothing behind; *end is behind the last digit. */
static bool read_integer(const char *text, uint64_t *value, const char **end)
{
    char *behind = NULL;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, &behind, 10);
    *value = number;
    *end = behind;
    return errno == 0 && number <= UINT64_MAX;
}

static int set_integer(const struct option_set *set, const struct option *option,
                       const char *text)
{
    const char *end = NULL;
    uint64_t value = 0;
    if (!read_integer(text, &value, &end) || *end != '\0' || value < option->least ||
        value > option->most)
        return wrong_usage(set->verb, "--%s takes a whole number from %llu to %llu, not '%s'",
                           option->name, (unsigned long long)option->least,
                           (unsigned long long)option->most, text);
    *option->to.integer = value;
    return STATUS_OK;
}

static int set_real(const struct option_set *set, const struct option *option, const char *text)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (*text == '\0' || strspn(text, "+-.0123456789eE") != strlen(text) || *end != '\0' ||
        !isfinite(value) || value < option->least_real || value > option->most_real)
        return wrong_usage(set->verb, "--%s takes a number from %g to %g, not '%s'", option->name,
                           option->least_real, option->most_real, text);
    *option->to.real = value;
    return STATUS_OK;
}

static int set_list(const struct option_set *set, const struct option *option, const char *text)
{
    struct option_list list = {.count = 0};
    const char *rest = text;
    for (;;) {
        const char *end = NULL;
        uint64_t value = 0;
        if (list.count == OPTION_ITEMS_MOST || !read_integer(rest, &value, &end) ||
            (*end != ',' && *end != '\0') || value < option->least || value > option->most)
            return wrong_usage(set->verb,
                               "--%s takes at most %d whole numbers from %llu to %llu with "
                               "commas between, not '%s'",
                               option->name, (int)OPTION_ITEMS_MOST,
                               (unsigned long long)option->least,
                               (unsigned long long)option->most, text);
        list.items[list.count++] = value;
        if (*end == '\0')
            break;
        rest = end + 1;
    }
    *option->to.list = list;
    return STATUS_OK;
}

/* Numbers with commas between them. */
static bool is_list(const char *text)
{
    for (;; text++) {
        size_t digits = strspn(text, "0123456789");
        text += digits;
        if (digits == 0 || *text != ',')
            return digits > 0 && *text == '\0';
    }
}

/* Whether the text is a choice of that width; "N,..." at a choice's end stands for a list. */
static bool is_choice(const char *choice, size_t width, const char *text)
{
    static const char list[] = "N,...";
    size_t ending = sizeof list - 1;
    if (width < ending || memcmp(choice + width - ending, list, ending) != 0)
        return strlen(text) == width && memcmp(choice, text, width) == 0;
    return strncmp(choice, text, width - ending) == 0 && is_list(text + width - ending);
}

static int set_choice(const struct option_set *set, const struct option *option,
                      const char *text)
{
    for (const char *choice = option->value_name; *choice;) {
        size_t width = strcspn(choice, "|");
        if (is_choice(choice, width, text)) {
            *option->to.text = text;
            return STATUS_OK;
        }
        choice += width + (choice[width] == '|');
    }
    return wrong_usage(set->verb, "--%s takes one of %s, not '%s'", option->name,
                       option->value_name, text);
}

static int set_texts(const struct option_set *set, const struct option *option, const char *text)
{
    struct option_texts *texts = option->to.texts;
    if (texts->count == OPTION_ITEMS_MOST)
        return wrong_usage(set->verb, "--%s can be given at most %d times", option->name,
                           (int)OPTION_ITEMS_MOST);
    texts->items[texts->count++] = text;
    return STATUS_OK;
}

static int set_value(const struct option_set *set, struct option *option, const char *text)
{
    option->given = true;
    switch (option->kind) {
    case OPTION_TEXT:
        *option->to.text = text;
        return STATUS_OK;
    case OPTION_TEXTS:
        return set_texts(set, option, text);
    case OPTION_CHOICE:
        return set_choice(set, option, text);
    case OPTION_INTEGER:
        return set_integer(set, option, text);
    case OPTION_REAL:
        return set_real(set, option, text);
    case OPTION_LIST:
        return set_list(set, option, text);
    case OPTION_FLAG:
        break;
    }
    *option->to.flag = true;
    return STATUS_OK;
}

/* ----------------------------------------------------------------- parsing */

/* The option an argument names; *value is what stands behind '=', or NULL. */
static struct option *find(struct option_set *set, const char *argument, const char **value)
{
    *value = NULL;
    for (size_t i = 0; i < set->count; i++) {
        struct option *option = &set->items[i];
        size_t length = strlen(option->name);
        if (option->letter && argument[1] == option->letter && argument[2] == '\0')
            return option;
        if (argument[1] != '-' || strncmp(argument + 2, option->name, length) != 0)
            continue;
        if (argument[2 + length] == '=')
            *value = argument + 2 + length + 1;
        if (argument[2 + length] == '=' || argument[2 + length] == '\0')
            return option;
    }
    return NULL;
}

static int read_argument(struct option_set *set, int argc, char **argv, int *next)
{
    const char *argument = argv[(*next)++];
    const char *value = NULL;
    if (argument[0] != '-' || argument[1] == '\0')
        return wrong_usage(set->verb, "unexpected argument '%s'", argument);
    struct option *option = find(set, argument, &value);
    if (!option)
        return wrong_usage(set->verb, "unknown option '%s'", argument);
    if (option->kind == OPTION_FLAG && value)
        return wrong_usage(set->verb, "--%s takes no value", option->name);
    if (option->kind != OPTION_FLAG && !value) {
        if (*next == argc)
            return wrong_usage(set->verb, "%s takes a value, %s", argument, option->value_name);
        value = argv[(*next)++];
    }
    return set_value(set, option, value);
}

static int check_required(const struct option_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        const struct option *option = &set->items[i];
        if (option->required && !option->given)
            return wrong_usage(set->verb, "--%s %s is missing", option->name, option->value_name);
    }
    return STATUS_OK;
}

bool options_parse(struct option_set *set, int argc, char **argv, int *status)
{
    *status = STATUS_OK;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) {
            print_help(set);
            return false;
        }
    for (int next = 0; next < argc && *status == STATUS_OK;)
        *status = read_argument(set, argc, argv, &next);
    if (*status == STATUS_OK)
        *status = check_required(set);
    return *status == STATUS_OK;
}

bool option_given(const struct option_set *set, const char *name)
{
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->items[i].name, name) == 0)
            return set->items[i].given;
    return false;
}

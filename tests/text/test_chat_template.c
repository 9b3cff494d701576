#include "text/chat_template.h"
#include "text/json_integers.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

static hymba_error fault;

/* ---------------------------------------------------------------- helpers */

static hy_json *parse(const char *text, size_t length)
{
    hy_json *document;
    hymba_error_init(&fault, sizeof fault);
    test_status(hy_json_parse(text, length, "a test", &document, &fault), HYMBA_OK, fault);
    return document;
}

static struct hy_memory plain_memory;

/* Renders with variables given as JSON; the text is in *text, which the caller frees. */
static hymba_status render_bytes(const char *source, size_t length, const hy_json *variables,
                                 struct hy_text *text)
{
    hymba_error_init(&fault, sizeof fault);
    hy_memory_init(&plain_memory, NULL, NULL);
    hy_text_init(text, &plain_memory);
    return hy_chat_template_render(source, length, variables, text, &fault);
}

static hymba_status render(const char *source, const char *variables, struct hy_text *text)
{
    hy_json *document = parse(variables, strlen(variables));
    hymba_status status = render_bytes(source, strlen(source), document, text);
    hy_json_free(document);
    return status;
}

/* The status of rendering; where it is a refusal, position and message must be as said. */
static void refused(const char *source, hymba_status status, int64_t position, const char *part)
{
    struct hy_text text;
    hymba_status actual =
        render(source, "{\"a\": [1, 2], \"s\": \"text\", \"o\": {\"k\": 1}}", &text);
    ck_assert_msg(actual == status, "%s gave status %d (%s)", source, (int)actual, fault.message);
    ck_assert_int_eq(fault.status, status);
    ck_assert_uint_eq(text.length, 0);
    ck_assert_msg(position < 0 || fault.position == position, "%s: position %lld, not %lld (%s)",
                  source, (long long)fault.position, (long long)position, fault.message);
    ck_assert_msg(strstr(fault.message, part) != NULL, "%s: no \"%s\" in: %s", source, part,
                  fault.message);
    hy_text_free(&text);
    ck_assert_uint_eq(plain_memory.used, 0);
}

/* Calls use for each line of a file, with the line's number from 1. */
static void for_each_line(const char *path, void (*use)(const hy_json *line, int number))
{
    size_t size;
    char *content = test_read_file(path, &size);
    int number = 0;
    for (char *line = content; *line;) {
        size_t length = strcspn(line, "\n");
        hy_json *document = parse(line, length);
        use(document, ++number);
        hy_json_free(document);
        line += length + (line[length] == '\n');
    }
    free(content);
    ck_assert_int_gt(number, 0);
}

static void expect_text(const struct hy_text *text, const hy_json *expected, const char *what,
                        int number)
{
    size_t length;
    const char *wanted = hy_json_string(expected, &length);
    ck_assert_ptr_nonnull(wanted);
    ck_assert_msg(text->length == length &&
                      (length == 0 || memcmp(text->data, wanted, length) == 0),
                  "%s, line %d: got \"%s\", expected \"%s\"", what, number,
                  text->data ? text->data : "", wanted);
}

/* ---------------------------------------------------------- expected texts */

static hy_json *named_variables[2];
static const char *const variable_names[2] = {"chat", "values"};

static const hy_json *variables_of(const hy_json *line)
{
    const hy_json *variables = hy_json_object_get(line, "variables");
    const char *name = hy_json_string(variables, NULL);
    for (size_t i = 0; name && i < 2; i++)
        if (strcmp(name, variable_names[i]) == 0)
            return hy_json_object_get(named_variables[i], "variables");
    return variables;
}

static int jinja_cases;

static void check_jinja_case(const hy_json *line, int number)
{
    struct hy_text text;
    size_t length;
    const char *source = hy_json_string(hy_json_object_get(line, "template"), &length);
    if (!source)
        return;
    hymba_status status = render_bytes(source, length, variables_of(line), &text);
    if (hy_json_bool(hy_json_object_get(line, "raises"))) {
        ck_assert_msg(status == HYMBA_ERROR_ARGUMENT, "line %d (%s): status %d (%s)", number,
                      source, (int)status, fault.message);
        ck_assert_int_ge(fault.position, 0);
        ck_assert_int_le(fault.position, (int64_t)length);
    } else {
        ck_assert_msg(status == HYMBA_OK, "line %d (%s): %s", number, source, fault.message);
        expect_text(&text, hy_json_object_get(line, "text"), source, number);
    }
    hy_text_free(&text);
    ck_assert_uint_eq(plain_memory.used, 0);
    jinja_cases++;
}

/* The first lines define the variables that the others name. */
static void with_named_variables(void (*use)(void))
{
    size_t size;
    char *content = test_read_file(test_data("template_cases.jsonl"), &size);
    char *line = content;
    for (int i = 0; i < 2; i++) {
        size_t length = strcspn(line, "\n");
        named_variables[i] = parse(line, length);
        ck_assert_str_eq(hy_json_string(hy_json_object_get(named_variables[i], "name"), NULL),
                         variable_names[i]);
        line += length + 1;
    }
    use();
    for (int i = 0; i < 2; i++)
        hy_json_free(named_variables[i]);
    free(content);
}

static void check_all_jinja_cases(void)
{
    for_each_line(test_data("template_cases.jsonl"), check_jinja_case);
}

START_TEST(as_jinja_renders)
{
    with_named_variables(check_all_jinja_cases);
    ck_assert_int_gt(jinja_cases, 800);
}
END_TEST

/* Floats must not take the decimal point of the program's language. */
START_TEST(in_another_locale)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8",
                                        "nl_NL.UTF-8", "es_ES.UTF-8"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++)
        found = setlocale(LC_NUMERIC, names[i]) != NULL;
    if (!found)
        printf("skipped: no locale with a decimal comma is installed\n");
    else
        with_named_variables(check_all_jinja_cases);
    setlocale(LC_NUMERIC, "C");
}
END_TEST

static char *published_template;
static int chats;

static void check_chat(const hy_json *line, int number)
{
    struct hy_text text;
    const char *kind = hy_json_string(hy_json_object_get(line, "kind"), NULL);
    if (!kind || strcmp(kind, "chat") != 0)
        return;
    test_status(render_bytes(published_template, strlen(published_template), line, &text),
                HYMBA_OK, fault);
    expect_text(&text, hy_json_object_get(line, "text"), "chat", number);
    hy_text_free(&text);
    chats++;
}

START_TEST(the_published_template)
{
    const char *path = test_shared("tokenizer/tokenizer_config.json");
    const char *cases = test_shared("tokenizer/cases.jsonl");
    size_t size;
    if (!path || !cases)
        return;
    char *content = test_read_file(path, &size), *widened;
    hy_memory_init(&plain_memory, NULL, NULL);
    test_status(hy_json_widen_integers(&plain_memory, content, size, &widened, &size, &fault),
                HYMBA_OK, fault);
    hy_json *config = parse(widened, size);
    hy_free(&plain_memory, widened);
    const char *source = hy_json_string(hy_json_object_get(config, "chat_template"), NULL);
    ck_assert_ptr_nonnull(source);
    published_template = strdup(source);
    for_each_line(cases, check_chat);
    ck_assert_int_gt(chats, 5);
    free(published_template);
    hy_json_free(config);
    free(content);
}
END_TEST

START_TEST(output_is_appended)
{
    struct hy_text text;
    hymba_error_init(&fault, sizeof fault);
    hy_memory_init(&plain_memory, NULL, NULL);
    hy_text_init(&text, &plain_memory);
    hy_json *variables = parse("{}", 2);
    ck_assert(hy_text_append(&text, "before ", 7));
    test_status(hy_chat_template_render("{{ 1 }}", 7, variables, &text, &fault), HYMBA_OK, fault);
    ck_assert_str_eq(text.data, "before 1");
    ck_assert_int_eq(hy_chat_template_render("abc{{ x.y }}", 12, variables, &text, &fault),
                     HYMBA_ERROR_ARGUMENT);
    ck_assert_str_eq(text.data, "before 1");
    ck_assert_uint_eq(text.length, 8);
    ck_assert_int_eq(hy_chat_template_render("abc{{ x.y }}", 12, variables, &text, NULL),
                     HYMBA_ERROR_ARGUMENT);
    test_status(hy_chat_template_render("", 0, NULL, &text, &fault), HYMBA_OK, fault);
    test_status(hy_chat_template_render(NULL, 0, NULL, &text, &fault), HYMBA_OK, fault);
    test_status(hy_chat_template_render("{{ x }}.", 8, NULL, &text, &fault), HYMBA_OK, fault);
    ck_assert_str_eq(text.data, "before 1.");
    hy_json_free(variables);
    hy_text_free(&text);
}
END_TEST

/* ---------------------------------------------------------------- refusals */

START_TEST(unsupported_constructs_are_named)
{
    static const struct {
        const char *source;
        int64_t position;
        const char *part;
    } cases[] = {
        {"ab{% macro m() %}{% endmacro %}", 5, "tag 'macro'"},
        {"{% import 'x' as y %}", 3, "tag 'import'"},
        {"{% from 'x' import y %}", 3, "tag 'from'"},
        {"{% include 'x' %}", 3, "tag 'include'"},
        {"{% extends 'x' %}", 3, "tag 'extends'"},
        {"{% block b %}{% endblock %}", 3, "tag 'block'"},
        {"{% call m() %}{% endcall %}", 3, "tag 'call'"},
        {"{% filter upper %}a{% endfilter %}", 3, "tag 'filter'"},
        {"{% raw %}{{ x }}{% endraw %}", 3, "tag 'raw'"},
        {"{% with x = 1 %}{% endwith %}", 3, "tag 'with'"},
        {"{% autoescape true %}{% endautoescape %}", 3, "tag 'autoescape'"},
        {"{% do a.append(1) %}", 3, "tag 'do'"},
        {"{% for x in a %}{% break %}{% endfor %}", 19, "tag 'break'"},
        {"{% for x in a %}{% continue %}{% endfor %}", 19, "tag 'continue'"},
        {"{% generation %}{% endgeneration %}", 3, "tag 'generation'"},
        {"{% set x %}a{% endset %}", 3, "endset"},
        {"{% set x, y = a %}", 8, "several variables"},
        {"{% set o.x = 1 %}", 8, "member of 'o'"},
        {"{% set x = 1, 2 %}", 12, "tuple"},
        {"{% set raise_exception = 1 %}", 7, "raise_exception"},
        {"{% for x, y in a %}{% endfor %}", 8, "several variables"},
        {"{% for x in a if x %}{% endfor %}", 14, "for loop with 'if'"},
        {"{% for x in a recursive %}{% endfor %}", 14, "'recursive'"},
        {"{% for x in 1, 2 %}{% endfor %}", 13, "tuple"},
        {"{{ s|unknown_filter }}", 5, "filter 'unknown_filter'"},
        {"{{ a|join(',') }}", 5, "filter 'join'"},
        {"{{ s|tojson(indent=2) }}", 12, "argument 'indent'"},
        {"{{ s|tojson(2) }}", 12, "'tojson' with more than 0"},
        {"{{ s is divisibleby 3 }}", 8, "test 'divisibleby'"},
        {"{{ s is in a }}", 8, "test 'in'"},
        {"{{ s is string 'x' }}", 15, "argument of the test 'string'"},
        {"{{ s.replace('a', 'b') }}", 5, "method 'replace'"},
        {"{{ o.items() }}", 5, "method 'items'"},
        {"{{ a.append(1) }}", 5, "method 'append'"},
        {"{{ loop.cycle(1) }}", 8, "method 'cycle'"},
        {"{{ s.split(' ', 1) }}", 16, "'split' with more than 1"},
        {"{{ s.split(maxsplit=1) }}", 11, "argument 'maxsplit'"},
        {"{{ range(3) }}", 3, "function 'range'"},
        {"{% set n = namespace(x=1) %}", 11, "function 'namespace'"},
        {"{{ strftime_now('%Y') }}", 3, "function 'strftime_now'"},
        {"{{ unknown() }}", 3, "function 'unknown'"},
        {"{{ range }}", 3, "variable 'range'"},
        {"{{ o.items }}", 5, "attribute 'items'"},
        {"{{ o['keys'] }}", 5, "attribute 'keys'"},
        {"{{ s['upper'] }}", 5, "attribute 'upper'"},
        {"{{ s.__class__ }}", 5, "attribute '__class__'"},
        {"{{ 1 .real }}", 6, "attribute 'real'"},
        {"{{ o['k']() }}", 9, "calling"},
        {"{{ (s)() }}", 6, "calling"},
        {"{{ s|trim() () }}", 12, "calling"},
        {"{{ raise_exception(*a) }}", 19, "unpacking"},
        {"{{ (1, 2) }}", 3, "tuples"},
        {"{{ () }}", 3, "tuples"},
        {"{{ a[1, 2] }}", 6, "tuples"},
        {"{{ 1, 2 }}", 4, "tuple"},
        {"{{ a[::2] }}", 6, "step"},
        {"{{ {'a': 1} }}", 3, "dictionaries"},
        {"{{ 1.5 }}", 3, "plain integers"},
        {"{{ 1e5 }}", 3, "plain integers"},
        {"{{ 0x10 }}", 3, "plain integers"},
        {"{{ 1_000 }}", 3, "plain integers"},
        {"{{ 9223372036854775808 }}", 3, "64 bits"},
        {"{{ 9223372036854775807 + 1 }}", 23, "64 bits"},
        {"{{ 9223372036854775807 * 2 }}", 23, "64 bits"},
        {"{{ (-9223372036854775807 - 1) // -1 }}", 30, "64 bits"},
        {"{{ (-9223372036854775807 - 1) % -1 }}", 30, "64 bits"},
        {"{{ -(-9223372036854775807 - 1) }}", 3, "64 bits"},
        {"{{ 1 / 2 }}", 5, "'/'"},
        {"{{ 1 ** 2 }}", 5, "'**'"},
        {"{{ s * 2 }}", 5, "calculating"},
        {"{{ a + a }}", 5, "calculating"},
        {"{{ a < a }}", 5, "ordering lists"},
        {"{{ a }}", 0, "a list as text"},
        {"{{ o }}", 0, "an object as text"},
        {"{{ 'x' ~ a }}", 7, "a list as text"},
        {"{{ a|trim }}", 5, "a list as text"},
        {"{% for x in a %}{{ loop }}{% endfor %}", 16, "loop as text"},
        {"{% for x in a %}{{ loop.previtem }}{% endfor %}", 24, "attribute 'previtem'"},
        {"{{ '\xC3\xA4'|upper }}", 8, "ASCII"},
        {"{{ gr\xC3\xB6\xC3\x9F""e }}", 3, "ASCII"},
        {"{{ '\\N{DIGIT ONE}' }}", 4, "\\N"},
        {"{{ '\\ud83d\\ude00' }}", 4, "surrogates"},
        {"{{ '\\\xC3\xA4' }}", 4, "backslash"},
        {"a\r\n\r\n{% macro %}", 8, "tag 'macro'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].source, HYMBA_ERROR_UNSUPPORTED, cases[i].position, cases[i].part);
}
END_TEST

START_TEST(syntax_errors)
{
    static const struct {
        const char *source;
        int64_t position;
        const char *part;
    } cases[] = {
        {"{{", 2, "end of the template"},
        {"{{ }}", 3, "expected an expression, found '}}'"},
        {"{{ 1", 4, "end of the template"},
        {"{{ 1 %}", 6, "found '}'"},
        {"{{ 1 2 }}", 5, "found a number"},
        {"{{ a b }}", 5, "found 'b'"},
        {"{{ 'abc }}", 3, "no end"},
        {"{{ \"abc\\\" }}", 3, "no end"},
        {"x{# abc", 1, "comment"},
        {"{% if true %}a", 14, "end of a block"},
        {"{% if true %}a{% endfor %}", 17, "endfor"},
        {"{% if %}{% endif %}", 6, "an expression"},
        {"{% endif %}", 3, "endif"},
        {"{% else %}", 3, "else"},
        {"{% if 1 %}{% else %}{% elif 2 %}{% endif %}", 23, "elif"},
        {"{% if 1 %}{% endif x %}", 19, "found 'x'"},
        {"{% for x a %}{% endfor %}", 9, "'in'"},
        {"{% for 1 in a %}{% endfor %}", 7, "variable"},
        {"{% for x in a %}", 16, "end of a block"},
        {"{% for loop in a %}{% endfor %}", 7, "variable"},
        {"{% set true = 1 %}", 7, "variable"},
        {"{% set x 1 %}", 9, "'='"},
        {"{% set = 1 %}", 7, "variable"},
        {"{% %}", 3, "name of a tag"},
        {"{% 1 %}", 3, "name of a tag"},
        {"{{ (1 }}", 6, "expected ')'"},
        {"{{ [1 }}", 6, "expected ','"},
        {"{{ a[ }}", 6, "expression"},
        {"{{ a[] }}", 5, "expression"},
        {"{{ a. }}", 6, "attribute"},
        {"{{ a| }}", 6, "a name"},
        {"{{ a|default(1, }}", 16, "expression"},
        {"{{ a|default(1 2) }}", 15, "','"},
        {"{{ a|default(1, default_value=2) }}", 16, "twice"},
        {"{{ s.startswith() }}", 5, "needs 1"},
        {"{{ 1 + }}", 7, "expression"},
        {"{{ not }}", 7, "expression"},
        {"{{ and }}", 3, "expression"},
        {"{{ 1 if }}", 8, "expression"},
        {"{{ 012 }}", 3, "0"},
        {"{{ ? }}", 3, "0x3F"},
        {"{{ ! }}", 3, "0x21"},
        {"{{ '\\x4' }}", 4, "2 digits"},
        {"{{ '\\u12' }}", 4, "4 digits"},
        {"{{ '\\U00110000' }}", 4, "character"},
        {"ab\xFF", 2, "UTF-8"},
        {"{{ '\xC3' }}", 4, "UTF-8"},
        {"{{ +}} }}", 4, "expression"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].source, HYMBA_ERROR_FORMAT, cases[i].position, cases[i].part);
}
END_TEST

START_TEST(runtime_errors)
{
    refused("{{ o.missing.strip() }}", HYMBA_ERROR_ARGUMENT, 13, "'strip' of an undefined value");
    refused("{{ o['missing']['x'] }}", HYMBA_ERROR_ARGUMENT, 16, "'x' of an undefined value");
    refused("{{ s.get('x') }}", HYMBA_ERROR_ARGUMENT, 5, "'get' of a string");
    refused("{{ s + 1 }}", HYMBA_ERROR_ARGUMENT, 5, "a string and an integer");
    refused("{{ 1 // 0 }}", HYMBA_ERROR_ARGUMENT, 5, "zero");
    refused("{% for x in 5 %}{% endfor %}", HYMBA_ERROR_ARGUMENT, 12, "an integer");
    refused("ab{{ raise_exception('roles ' + 'must alternate') }}", HYMBA_ERROR_ARGUMENT, 5,
            "roles must alternate");
    refused("{{ raise_exception('%s%n%d') }}", HYMBA_ERROR_ARGUMENT, 3, "%s%n%d");
    refused("{{ raise_exception(s.strip().split('').x) }}", HYMBA_ERROR_ARGUMENT, -1, "empty");
}
END_TEST

/* A long message is cut between characters. */
START_TEST(long_exception)
{
    char source[2000] = "{{ raise_exception('";
    for (int i = 0; i < 600; i++)
        strcat(source, "\xC3\xA4");
    strcat(source, "') }}");
    refused(source, HYMBA_ERROR_ARGUMENT, 3, "\xC3\xA4");
    size_t length = strlen(fault.message);
    ck_assert_uint_gt(length, 350);
    ck_assert_int_eq((unsigned char)fault.message[length - 2], 0xC3);
}
END_TEST

/* ------------------------------------------------------------------ limits */

static char *put_repeated(char *place, const char *text, size_t n)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < n; i++, place += length)
        memcpy(place, text, length + 1);
    return place;
}

/* first, n times repeated, last, n times closing; from malloc */
static char *nested(const char *first, const char *repeated, size_t n, const char *last,
                    const char *closing)
{
    size_t size = strlen(first) + n * (strlen(repeated) + strlen(closing)) + strlen(last) + 1;
    char *source = malloc(size), *place = source;
    ck_assert_ptr_nonnull(source);
    source[0] = '\0';
    place = put_repeated(place, first, 1);
    place = put_repeated(place, repeated, n);
    place = put_repeated(place, last, 1);
    put_repeated(place, closing, n);
    return source;
}

START_TEST(nesting_is_limited)
{
    static const struct {
        const char *first, *repeated, *last, *closing;
        size_t fine;
    } cases[] = {
        {"", "{% if true %}", "x", "{% endif %}", 60},
        {"", "{% for i in [1] %}", "x", "{% endfor %}", 60},
        {"{% if ", "(", "1", ")", 60},
        {"{{ ", "(", "1", ")", 60},
        {"{{ ", "[", "", "]", 0},
        {"{{ ", "a[", "0", "]", 60},
        {"{{ ", "not ", "1 }}", "", 60},
        {"{{ ", "- ", "1 }}", "", 60},
        {"{{ 1", " if 1 else 1", " }}", "", 60},
        {"{{ ", "1|default(", "1", ")", 60},
        {"{{ s", "|trim", " }}", "", 150},
        {"{{ s", ".strip()", " }}", "", 150},
        {"{{ s", "[0]", " }}", "", 150},
        {"{{ s", " + s", " }}", "", 150},
        {"{{ s", " ~ s", " }}", "", 150},
        {"{{ 1", " and 1", " }}", "", 150},
        {"{{ 1", " if 1", " }}", "", 150},
    };
    struct hy_text text;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const size_t counts[] = {300, 100000};
        for (size_t j = 0; j < 2; j++) {
            char *source = nested(cases[i].first, cases[i].repeated, counts[j], cases[i].last,
                                  cases[i].closing);
            refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "more than");
            free(source);
        }
        char *source = nested(cases[i].first, cases[i].repeated, cases[i].fine, cases[i].last,
                              cases[i].closing);
        bool is_open = strstr(cases[i].first, "{{") && !strstr(cases[i].last, "}}");
        if (cases[i].fine && !strstr(cases[i].first, "{% if")) {
            char *whole = nested(source, "", 0, is_open ? " }}" : "", "");
            test_status(render(whole, "{\"a\": [0], \"s\": \"text\"}", &text), HYMBA_OK, fault);
            hy_text_free(&text);
            free(whole);
        }
        free(source);
    }
    /* What does not nest may be long. */
    static const struct {
        const char *first, *repeated, *last;
    } long_ones[] = {
        {"{% if 0 %}", "{% elif 0 %}", "{% endif %}"},
        {"{{ [", "1,", "]|length }}"},
        {"", "{% set x = 1 %}", ""},
        {"{{ ", "'a'", " }}"},
        {"{{ 0", " < 1 + 1", " }}"},
        {"", "{# c #}", ""},
    };
    for (size_t i = 0; i < sizeof long_ones / sizeof *long_ones; i++) {
        char *source =
            nested(long_ones[i].first, long_ones[i].repeated, 1000, long_ones[i].last, "");
        test_status(render(source, "{}", &text), HYMBA_OK, fault);
        hy_text_free(&text);
        free(source);
    }
}
END_TEST

START_TEST(work_is_limited)
{
    /* Ten loops of ten thousand turns each, one in the other. */
    hy_json *variables;
    struct hy_text text;
    size_t size = 20 + 10000 * 2;
    char *json = malloc(size);
    strcpy(json, "{\"a\": [1");
    for (int i = 0; i < 9999; i++)
        strcat(json + 2 * i, ",1");
    strcat(json, "]}");
    variables = parse(json, strlen(json));
    static const char *const sources[] = {
        "{% for i in a %}{% for j in a %}{% for k in a %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for i in a %}{% for j in a %}{{ i }}{% endfor %}{% endfor %}",
        "{% for i in a %}{{ a == a }}{% endfor %}",
        "{% for i in a %}{{ 2 in a }}{% endfor %}",
        "{% for i in a %}{{ a|tojson }}{% endfor %}",
        "{% set x = 'abcdefghij' %}{% for i in a %}{% for j in a %}{{ x }}{% endfor %}{% endfor %}",
    };
    for (size_t i = 0; i < (test_is_slow() ? 2 : sizeof sources / sizeof *sources); i++) {
        ck_assert_int_eq(render_bytes(sources[i], strlen(sources[i]), variables, &text),
                         HYMBA_ERROR_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(fault.message, "steps"));
        ck_assert_uint_eq(text.length, 0);
        hy_text_free(&text);
    }
    hy_json_free(variables);
    free(json);
}
END_TEST

/* step n times between before and after */
static char *doubling(const char *before, const char *step, int n, const char *after)
{
    return nested(before, step, (size_t)n, after, "");
}

START_TEST(memory_and_output_are_limited)
{
    char *source = doubling("{% set x = 'abcdefgh' %}", "{% set x = x + x %}", 40, "{{ x }}");
    refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "memory");
    free(source);
    source = doubling("{% set x = ['a'] %}", "{% set x = [x, x] %}", 60, "{{ x|tojson }}");
    refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "more than");
    free(source);
    source = doubling("{% set x = ['a'] %}{% set y = ['a'] %}",
                      "{% set x = [x, x] %}{% set y = [y, y] %}", 60, "{{ x == y }}");
    refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "steps");
    free(source);
    source = doubling("{% set x = ['a'] %}", "{% set x = [x] %}", 300, "{{ x|tojson }}");
    refused(source, HYMBA_ERROR_ARGUMENT, -1, "nested");
    free(source);
    source = doubling("{% set x = ['a'] %}{% set y = ['a'] %}",
                      "{% set x = [x] %}{% set y = [y] %}", 300, "{{ x == y }}");
    refused(source, HYMBA_ERROR_ARGUMENT, -1, "nested");
    free(source);
    source = doubling("{% set x = 'abcdefgh' %}", "{% set x = x + x %}", 21,
                      "{{ x }}{{ x }}{{ x }}{{ x }}{{ x }}");
    refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "longer than");
    free(source);
    /* A search that would take the product of both lengths. */
    source = doubling("{% set x = 'aaaaaaaa' %}", "{% set x = x + x %}", 16,
                      "{% set y = x + 'b' %}{% set z = x + x + x %}{{ y in z }}");
    refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "steps");
    free(source);
    source = doubling("{% set x = 'aaaaaaaa' %}", "{% set x = x + x %}", 16,
                      "{{ (x + x + x).split(x + 'b')|length }}");
    refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "steps");
    free(source);
    source = doubling("{% set x = 'aaaaaaaa' %}", "{% set x = x + x %}", 16, "{{ x.strip(x) }}");
    refused(source, HYMBA_ERROR_UNSUPPORTED, -1, "more than 64");
    free(source);
}
END_TEST

/* -------------------------------------------------------------------- fuzz */

/* A template with something of everything. */
static const char everything[] =
    "{#- a comment -#}\n"
    "{{ bos ~ '<sys>' }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '\\n' + m['content'].strip() }}{% endif %}{% else %}-{% endfor %}\n"
    "{%- set rest = messages[1:] -%}\n"
    "{% if tools is defined and tools|length > 0 %}\n"
    "  {% for tool in tools %}{{ loop.index ~ ': ' + tool|tojson }}\n  {% endfor %}\n"
    "{% elif not contexts or 'x' not in contexts %}\xC3\xA4\n"
    "{% else %}{{ contexts[0][-3:]|trim }}{% endif %}\r\n"
    "{%+ for m in rest +%}{{- m.content | default('none', boolean=true) -}}"
    "{{ 'user' if m.role.startswith('u') else m.get('role', \"-\") }}"
    "{% if loop.last and (1 + 2 * 3 - 4) // 2 % 2 <= 1 %}\xF0\x9F\x98\x80{% endif %}{% endfor %}";
static const char everything_variables[] =
    "{\"bos\": \"<s>\", \"messages\": [{\"role\": \"system\", \"content\": \" Be brief. \"},"
    "{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"tool\"}], \"tools\": [{\"a\": 1.5}],"
    "\"contexts\": [\"abc \"]}";

START_TEST(every_prefix)
{
    hy_json *variables = parse(everything_variables, strlen(everything_variables));
    struct hy_text text;
    size_t length = strlen(everything), successes = 0;
    for (size_t n = 0; n <= length; n++) {
        /* An exact copy, so that reading behind its end is noticed. */
        char *prefix = malloc(n + !n);
        memcpy(prefix, everything, n);
        hymba_status status = render_bytes(prefix, n, variables, &text);
        ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_FORMAT ||
                  status == HYMBA_ERROR_UNSUPPORTED);
        ck_assert(n < length || status == HYMBA_OK);
        successes += status == HYMBA_OK;
        if (status) {
            ck_assert_int_ge(fault.position, 0);
            ck_assert_int_le(fault.position, (int64_t)n);
        }
        hy_text_free(&text);
        ck_assert_uint_eq(plain_memory.used, 0);
        free(prefix);
    }
    ck_assert_uint_gt(successes, 10);
    hy_json_free(variables);
}
END_TEST

/* Pieces dropped, doubled and swapped at random: an answer, whatever it is. */
START_TEST(random_changes)
{
    static const char *const pieces[] = {
        "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "'", "(", ")", "[", "]", "|", ".", " is ",
        " not ", " in ", " if ", " else ", "\\", "\n", "1", "messages", "loop", "\r"};
    hy_json *variables = parse(everything_variables, strlen(everything_variables));
    struct hy_text text;
    test_random_seed(31);
    for (int round = 0; round < (test_is_slow() ? 300 : 3000); round++) {
        char *source = malloc(3 * sizeof everything);
        size_t length = strlen(everything);
        memcpy(source, everything, length);
        for (size_t change = 0; change <= test_random_below(4); change++) {
            size_t place = test_random_below(length), n = test_random_below(20);
            const char *piece = pieces[test_random_below(sizeof pieces / sizeof *pieces)];
            n = n < length - place ? n : length - place;
            if (test_random() < 0.5) {
                memmove(source + place, source + place + n, length - place - n);
                length -= n;
            } else {
                size_t added = strlen(piece);
                memmove(source + place + added, source + place, length - place);
                memcpy(source + place, piece, added);
                length += added;
            }
        }
        source = realloc(source, length + !length);
        hymba_status status = render_bytes(source, length, variables, &text);
        ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_FORMAT ||
                  status == HYMBA_ERROR_UNSUPPORTED || status == HYMBA_ERROR_ARGUMENT);
        hy_text_free(&text);
        ck_assert_uint_eq(plain_memory.used, 0);
        free(source);
    }
    hy_json_free(variables);
}
END_TEST

START_TEST(failing_allocations)
{
    hy_json *variables = parse(everything_variables, strlen(everything_variables));
    /* Long texts, so that chunks and the output grow more than once. */
    char *source = nested(everything, "{{ messages|tojson ~ messages|tojson }}", 500, "", "");
    hymba_status status = HYMBA_ERROR_MEMORY;
    long fail_at = 0;
    while (status) {
        struct test_host host;
        struct hy_memory memory;
        struct hy_text text;
        hymba_error_init(&fault, sizeof fault);
        test_host_init(&host);
        test_host_fail_at(&host, fail_at++, false);
        hy_memory_init(&memory, &host.host, NULL);
        hy_text_init(&text, &memory);
        status = hy_chat_template_render(source, strlen(source), variables, &text, &fault);
        ck_assert_int_eq(fault.status, status);
        if (status) {
            ck_assert_int_eq(status, HYMBA_ERROR_MEMORY);
            ck_assert_uint_eq(text.length, 0);
        }
        hy_text_free(&text);
        test_host_check(&host);
        fail_at += fail_at > 60 ? 37 : 0;
    }
    ck_assert_int_gt(fail_at, 10);
    free(source);
    hy_json_free(variables);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("chat_template");
    TCase *tests = tcase_create("chat_template");
    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, as_jinja_renders);
    tcase_add_test(tests, in_another_locale);
    tcase_add_test(tests, the_published_template);
    tcase_add_test(tests, output_is_appended);
    tcase_add_test(tests, unsupported_constructs_are_named);
    tcase_add_test(tests, syntax_errors);
    tcase_add_test(tests, runtime_errors);
    tcase_add_test(tests, long_exception);
    tcase_add_test(tests, nesting_is_limited);
    tcase_add_test(tests, work_is_limited);
    tcase_add_test(tests, memory_and_output_are_limited);
    tcase_add_test(tests, every_prefix);
    tcase_add_test(tests, random_changes);
    tcase_add_test(tests, failing_allocations);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}

#include "text/python_json.h"

#include <stdio.h>
#include <string.h>

#include "text/chat_template.h"
#include "text/python_number.h"

struct json_writer {
    struct hy_template *template;
    size_t position;
    struct hy_text *text;
};

static hymba_status put(struct json_writer *writer, const char *data, size_t length)
{
    hymba_status status = hy_template_charge(writer->template, length, writer->position);
    if (status)
        return status;
    if (length > HY_TEMPLATE_MAX_OUTPUT - writer->text->length)
        return hy_template_fail(writer->template, HYMBA_ERROR_UNSUPPORTED, writer->position,
                                "the JSON text is longer than %d bytes", HY_TEMPLATE_MAX_OUTPUT);
    if (!hy_text_append(writer->text, data, length))
        return hy_no_memory(writer->template->error, length, "a chat template's JSON text");
    return HYMBA_OK;
}

static hymba_status put_text(struct json_writer *writer, const char *text)
{
    return put(writer, text, strlen(text));
}

/* What stands for this byte in a JSON string; NULL if it stands for itself. */
static const char *escape_of(unsigned char byte, char buffer[8])
{
    switch (byte) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    case '\b':
        return "\\b";
    case '\f':
        return "\\f";
    }
    if (byte >= 0x20)
        return NULL;
    snprintf(buffer, 8, "\\u%04x", byte);
    return buffer;
}

static hymba_status put_string(struct json_writer *writer, struct hy_string string)
{
    char buffer[8];
    size_t done = 0;
    hymba_status status = put_text(writer, "\"");
    for (size_t i = 0; i < string.length && !status; i++) {
        const char *escape = escape_of((unsigned char)string.data[i], buffer);
        if (!escape)
            continue;
        status = put(writer, string.data + done, i - done);
        if (!status)
            status = put_text(writer, escape);
        done = i + 1;
    }
    if (!status)
        status = put(writer, string.data + done, string.length - done);
    return status ? status : put_text(writer, "\"");
}

static hymba_status put_value(struct json_writer *writer, const struct hy_value *value,
                              int depth);

static hymba_status put_list(struct json_writer *writer, const struct hy_value_list *list,
                             int depth)
{
    hymba_status status = put_text(writer, "[");
    for (size_t i = 0; i < list->count && !status; i++) {
        struct hy_value item = hy_value_item(list, i);
        if (i)
            status = put_text(writer, ", ");
        if (!status)
            status = put_value(writer, &item, depth + 1);
    }
    return status ? status : put_text(writer, "]");
}

static hymba_status put_mapping(struct json_writer *writer, const hy_json *mapping, int depth)
{
    const char *separator = "";
    hymba_status status = put_text(writer, "{");
    for (hy_json_member *member = hy_json_next_member(mapping, NULL); member && !status;
         member = hy_json_next_member(mapping, member)) {
        struct hy_string key;
        struct hy_value value = hy_value_from_json(hy_json_member_value(member));
        key.data = hy_json_member_key(member, &key.length);
        status = put_text(writer, separator);
        separator = ", ";
        if (!status)
            status = put_string(writer, key);
        if (!status)
            status = put_text(writer, ": ");
        if (!status)
            status = put_value(writer, &value, depth + 1);
    }
    return status ? status : put_text(writer, "}");
}

static hymba_status put_value(struct json_writer *writer, const struct hy_value *value, int depth)
{
    char number[HY_PYTHON_NUMBER_SIZE];
    if (depth > HY_TEMPLATE_MAX_VALUE_DEPTH)
        return hy_template_fail(writer->template, HYMBA_ERROR_ARGUMENT, writer->position,
                                "the value for tojson is nested more than %d deep",
                                HY_TEMPLATE_MAX_VALUE_DEPTH);
    switch (value->kind) {
    case HY_VALUE_NONE:
        return put_text(writer, "null");
    case HY_VALUE_BOOL:
        return put_text(writer, value->boolean ? "true" : "false");
    case HY_VALUE_INTEGER:
        return put(writer, number, hy_python_write_integer(value->integer, number));
    case HY_VALUE_REAL:
        return put(writer, number, hy_python_write_real(value->real, number));
    case HY_VALUE_STRING:
        return put_string(writer, value->string);
    case HY_VALUE_LIST:
        return put_list(writer, &value->list, depth);
    case HY_VALUE_MAPPING:
        return put_mapping(writer, value->mapping, depth);
    case HY_VALUE_UNDEFINED:
    case HY_VALUE_LOOP:
        break;
    }
    return hy_template_fail(writer->template, HYMBA_ERROR_ARGUMENT, writer->position,
                            "tojson of %s", hy_value_kind_name(value));
}

hymba_status hy_python_json(struct hy_template *template, const struct hy_value *value,
                            size_t position, struct hy_text *text)
{
    struct json_writer writer = {template, position, text};
    return put_value(&writer, value, 0);
}

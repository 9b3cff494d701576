#include "text/chat_template.h"

#include "text/template_evaluate.h"
#include "text/template_parser.h"

struct rendering {
    struct hy_template template;
    struct hy_template_scope scope;
    struct hy_text *text;
    size_t before; /* length of *text when the rendering began */
};

static hymba_status render_list(struct rendering *rendering, const struct hy_node *list);

static hymba_status put(struct rendering *rendering, struct hy_string string, size_t position)
{
    hymba_status status = hy_template_charge(&rendering->template, string.length, position);
    if (status)
        return status;
    if (string.length > HY_TEMPLATE_MAX_OUTPUT - (rendering->text->length - rendering->before))
        return hy_template_fail(&rendering->template, HYMBA_ERROR_UNSUPPORTED, position,
                                "the text is longer than %d bytes", HY_TEMPLATE_MAX_OUTPUT);
    if (!hy_text_append(rendering->text, string.data, string.length))
        return hy_no_memory(rendering->template.error, string.length, "a chat template's text");
    return HYMBA_OK;
}

static hymba_status render_print(struct rendering *rendering, const struct hy_node *node)
{
    struct hy_value value;
    struct hy_string string;
    hymba_status status = hy_template_evaluate(&rendering->scope, node->first, &value);
    if (!status)
        status = hy_value_text(&rendering->template, &value, node->position, &string);
    return status ? status : put(rendering, string, node->position);
}

static hymba_status render_set(struct rendering *rendering, const struct hy_node *node)
{
    struct hy_value value;
    hymba_status status = hy_template_evaluate(&rendering->scope, node->first, &value);
    return status ? status
                  : hy_scope_set(&rendering->scope, node->string, node->position, &value);
}

static hymba_status render_if(struct rendering *rendering, const struct hy_node *node)
{
    for (const struct hy_node *branch = node->first; branch; branch = branch->next) {
        struct hy_value condition = hy_value_bool(true);
        hymba_status status = HYMBA_OK;
        if (branch->first)
            status = hy_template_evaluate(&rendering->scope, branch->first, &condition);
        if (status)
            return status;
        if (hy_value_is_true(&condition))
            return render_list(rendering, branch->second);
    }
    return HYMBA_OK;
}

/* One turn of a loop, in a scope of its own. */
static hymba_status render_turn(struct rendering *rendering, const struct hy_node *node,
                                const struct hy_value *loop, const struct hy_value *item)
{
    static const struct hy_string loop_name = {"loop", 4};
    struct hy_template_scope *scope = &rendering->scope;
    size_t count = scope->count, start = scope->start;
    scope->start = count;
    hymba_status status = hy_scope_set(scope, loop_name, node->position, loop);
    if (!status)
        status = hy_scope_set(scope, node->string, node->position, item);
    if (!status)
        status = render_list(rendering, node->second);
    scope->start = start;
    scope->count = count;
    return status;
}

static hymba_status render_for(struct rendering *rendering, const struct hy_node *node)
{
    struct hy_value iterable;
    struct hy_value_list list = {NULL, NULL, 0, 0};
    hymba_status status = hy_template_evaluate(&rendering->scope, node->first, &iterable);
    if (!status)
        status = hy_value_iterate(&rendering->template, &iterable, node->first->position, &list);
    if (status)
        return status;
    if (list.count == 0)
        return render_list(rendering, node->third);
    /* No variable can hold it longer than a turn of the loop. */
    struct hy_template_loop state = {0, list.count};
    struct hy_value loop = {.kind = HY_VALUE_LOOP, .loop = &state};
    for (; state.index < list.count && !status; state.index++) {
        struct hy_value item = hy_value_item(&list, state.index);
        status = render_turn(rendering, node, &loop, &item);
    }
    return status;
}

static hymba_status render_node(struct rendering *rendering, const struct hy_node *node)
{
    hymba_status status = hy_template_charge(&rendering->template, 0, node->position);
    if (status)
        return status;
    switch (node->kind) {
    case HY_NODE_DATA:
        return put(rendering, node->string, node->position);
    case HY_NODE_PRINT:
        return render_print(rendering, node);
    case HY_NODE_SET:
        return render_set(rendering, node);
    case HY_NODE_IF:
        return render_if(rendering, node);
    case HY_NODE_FOR:
        return render_for(rendering, node);
    default:
        return hy_template_fail(&rendering->template, HYMBA_ERROR_INTERNAL, node->position,
                                "an expression stands where a statement should");
    }
}

static hymba_status render_list(struct rendering *rendering, const struct hy_node *list)
{
    hymba_status status = HYMBA_OK;
    for (; list && !status; list = list->next)
        status = render_node(rendering, list);
    return status;
}

hymba_status hy_chat_template_render(const char *source, size_t length, const hy_json *variables,
                                     struct hy_text *text, hymba_error *error)
{
    struct rendering rendering = {.text = text, .before = text->length};
    struct hy_string original = {source, length};
    struct hy_node *statements = NULL;
    hymba_status status = hy_template_init(&rendering.template, original, text->memory, error);
    rendering.scope.template = &rendering.template;
    rendering.scope.given = variables;
    if (!status)
        status = hy_template_parse(&rendering.template, &statements);
    if (!status)
        status = render_list(&rendering, statements);
    if (status)
        hy_text_truncate(text, rendering.before);
    hy_template_free(&rendering.template);
    return status;
}

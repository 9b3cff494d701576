/* A chat template and, behind a line "=====", its variables as JSON. */
#include "fuzz.h"
#include "text/chat_template.h"

static const char usual[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", "
    "\"content\": \" Hi \\n\"}], \"add_generation_prompt\": true, \"n\": 7, \"s\": \"abc\", "
    "\"tools\": [{\"name\": \"f\", \"parameters\": {\"x\": [1, 2.5, null]}}]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_host host;
    struct hy_memory memory;
    struct hy_text text;
    hy_json *variables = NULL;
    hymba_error error = {.struct_size = sizeof error};
    const uint8_t *json;
    size_t source_size, json_size;
    fuzz_divide(data, size, &source_size, &json, &json_size);
    if (!json) {
        json = (const uint8_t *)usual;
        json_size = sizeof usual - 1;
    }
    fuzz_host_init(&host);
    fuzz_check(hy_memory_init(&memory, &host.host, &error), &error);
    hymba_status status =
        hy_json_parse((const char *)json, json_size, "variables", &variables, &error);
    fuzz_check(status, &error);
    if (status == HYMBA_OK) {
        hy_text_init(&text, &memory);
        status = hy_chat_template_render((const char *)data, source_size, variables, &text,
                                         &error);
        fuzz_check(status, &error);
        fuzz_require(text.length <= HY_TEMPLATE_MAX_OUTPUT, "an output beyond its limit");
        hy_text_free(&text);
    }
    hy_json_free(variables);
    fuzz_require(host.live == 0, "memory that did not come back");
    return 0;
}

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "text/sampler_object.h"

static const char DEFAULT_ORDER[] =
    "penalties;dry;top_n_sigma;top_k;typical_p;top_p;min_p;xtc;temperature";

static const char *const stage_names[HY_N_STAGES] = {
    [HY_STAGE_PENALTIES] = "penalties",     [HY_STAGE_DRY] = "dry",
    [HY_STAGE_TOP_N_SIGMA] = "top_n_sigma", [HY_STAGE_TOP_K] = "top_k",
    [HY_STAGE_TYPICAL_P] = "typical_p",     [HY_STAGE_TOP_P] = "top_p",
    [HY_STAGE_MIN_P] = "min_p",             [HY_STAGE_XTC] = "xtc",
    [HY_STAGE_TEMPERATURE] = "temperature", [HY_STAGE_CUSTOM] = "custom",
};

/* ------------------------------------------------------------------ order */

/* The stage of a name; HY_N_STAGES if there is none. */
static enum hy_stage find_stage(const char *name, size_t length)
{
    enum hy_stage stage = HY_STAGE_PENALTIES;
    while (stage < HY_N_STAGES && (strlen(stage_names[stage]) != length ||
                                   memcmp(stage_names[stage], name, length) != 0))
        stage++;
    return stage;
}

static hymba_status add_stage(struct hy_stage_order *order, const char *name, size_t length,
                              int64_t position, hymba_error *error)
{
    int shown = length < 64 ? (int)length : 64;
    enum hy_stage stage = find_stage(name, length);
    if (stage == HY_N_STAGES)
        return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, position,
                          "sampler parameters: order names the stage \"%.*s\", which there is not",
                          shown, name);
    for (size_t i = 0; i < order->count; i++)
        if (order->stages[i] == stage)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, position,
                              "sampler parameters: order names the stage \"%.*s\" twice", shown,
                              name);
    order->stages[order->count++] = stage;
    return HYMBA_OK;
}

static hymba_status read_order(const char *text, struct hy_stage_order *order, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (const char *name = text; status == HYMBA_OK && *text;) {
        size_t length = strcspn(name, ";");
        status = add_stage(order, name, length, name - text, error);
        if (name[length] == '\0')
            break;
        name += length + 1;
    }
    return status;
}

static hymba_status choose_order(const hymba_sampler_params *params, struct hy_stage_order *order,
                                 hymba_error *error)
{
    bool has_custom = false;
    order->count = 0;
    if (!params->order && params->process)
        order->stages[order->count++] = HY_STAGE_CUSTOM;
    hymba_status status = read_order(params->order ? params->order : DEFAULT_ORDER, order, error);
    for (size_t i = 0; i < order->count; i++)
        has_custom = has_custom || order->stages[i] == HY_STAGE_CUSTOM;
    if (status == HYMBA_OK && has_custom && !params->process)
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "sampler parameters: order names the stage \"custom\", but process is "
                         "NULL");
    return status;
}

bool hy_stage_order_text(const unsigned char *stages, size_t count, char *text)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        if (stages[i] >= HY_N_STAGES || i >= HY_N_STAGES)
            return false;
        const char *name = stage_names[stages[i]];
        if (i > 0)
            text[length++] = ';';
        memcpy(text + length, name, strlen(name));
        length += strlen(name);
    }
    text[length] = '\0';
    return true;
}

/* ----------------------------------------------------------------- ranges */

static hymba_status check_range(const char *field, double value, double lowest, double highest,
                                hymba_error *error)
{
    if (isfinite(value) && value >= lowest && value <= highest)
        return HYMBA_OK;
    if (isinf(lowest))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: %s must be a finite number", field);
    if (isinf(highest))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: %s must be a finite number that is not negative",
                       field);
    return hy_fail(error, HYMBA_ERROR_ARGUMENT, "sampler parameters: %s must lie between 0 and %d",
                   field, (int)highest);
}

static hymba_status check_reals(const hymba_sampler_params *params, hymba_error *error)
{
    const struct {
        const char *name;
        double value, lowest, highest;
    } fields[] = {
        {"temperature", params->temperature, 0, INFINITY},
        {"top_p", params->top_p, 0, 1},
        {"min_p", params->min_p, 0, 1},
        {"repeat_penalty", params->repeat_penalty, 0, INFINITY},
        {"presence_penalty", params->presence_penalty, -INFINITY, INFINITY},
        {"frequency_penalty", params->frequency_penalty, -INFINITY, INFINITY},
        {"typical_p", params->typical_p, 0, 1},
        {"top_n_sigma", params->top_n_sigma, 0, INFINITY},
        {"xtc_probability", params->xtc_probability, 0, 1},
        {"xtc_threshold", params->xtc_threshold, 0, 1},
        {"dry_multiplier", params->dry_multiplier, 0, INFINITY},
        {"dry_base", params->dry_base, 0, INFINITY},
        {"mirostat_tau", params->mirostat_tau, 0, INFINITY},
        {"mirostat_eta", params->mirostat_eta, 0, INFINITY},
    };
    hymba_status status = HYMBA_OK;
    for (size_t i = 0; status == HYMBA_OK && i < sizeof fields / sizeof *fields; i++)
        status = check_range(fields[i].name, fields[i].value, fields[i].lowest,
                             fields[i].highest, error);
    if (status == HYMBA_OK && params->dry_base != 0 && params->dry_base < 1)
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "sampler parameters: dry_base must be 0 or at least 1");
    return status;
}

static hymba_status check_integers(const hymba_sampler_params *params, hymba_error *error)
{
    const struct {
        const char *name;
        int32_t value, lowest;
    } fields[] = {
        {"top_k", params->top_k, 0},
        {"repeat_last_n", params->repeat_last_n, -1},
        {"dry_allowed_length", params->dry_allowed_length, 0},
        {"dry_penalty_last_n", params->dry_penalty_last_n, -1},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].value < fields[i].lowest)
            return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                           "sampler parameters: %s is %d, expected at least %d", fields[i].name,
                           (int)fields[i].value, (int)fields[i].lowest);
    if (params->mirostat != 0 && params->mirostat != 2)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: mirostat is %d, expected 0 or 2",
                       (int)params->mirostat);
    if (params->reserved != 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: reserved is %u, expected 0",
                       (unsigned)params->reserved);
    return HYMBA_OK;
}

static hymba_status check_logit_bias(const hymba_sampler_params *params, hymba_error *error)
{
    if (params->n_logit_bias > 0 && !params->logit_bias)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: logit_bias is NULL, but n_logit_bias is %zu",
                       params->n_logit_bias);
    if (!hy_is_count(params->n_logit_bias, sizeof *params->logit_bias))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: n_logit_bias is %zu, which is more than memory can "
                       "hold",
                       params->n_logit_bias);
    for (size_t i = 0; i < params->n_logit_bias; i++) {
        const hymba_logit_bias *bias = &params->logit_bias[i];
        if (bias->token < 0)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "sampler parameters: logit_bias[%zu] has the token %d, which is "
                              "negative",
                              i, (int)bias->token);
        if (isnan(bias->bias) || bias->bias == INFINITY)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "sampler parameters: logit_bias[%zu] must be finite or negative "
                              "infinity",
                              i);
    }
    return HYMBA_OK;
}

static hymba_status check_breakers(const hymba_sampler_params *params, hymba_error *error)
{
    if (params->n_dry_breakers > 0 && !params->dry_breakers)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: dry_breakers is NULL, but n_dry_breakers is %zu",
                       params->n_dry_breakers);
    if (!hy_is_count(params->n_dry_breakers, sizeof *params->dry_breakers))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: n_dry_breakers is %zu, which is more than memory can "
                       "hold",
                       params->n_dry_breakers);
    for (size_t i = 0; i < params->n_dry_breakers; i++)
        if (params->dry_breakers[i] < 0)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "sampler parameters: dry_breakers[%zu] is the token %d, which is "
                              "negative",
                              i, (int)params->dry_breakers[i]);
    return HYMBA_OK;
}

static void fill_in_defaults(hymba_sampler_params *params)
{
    params->repeat_last_n = params->repeat_last_n ? params->repeat_last_n : 64;
    params->xtc_threshold = params->xtc_threshold != 0 ? params->xtc_threshold : 0.1f;
    params->dry_base = params->dry_base != 0 ? params->dry_base : 1.75f;
    params->dry_allowed_length = params->dry_allowed_length ? params->dry_allowed_length : 2;
    params->mirostat_tau = params->mirostat_tau != 0 ? params->mirostat_tau : 5;
    params->mirostat_eta = params->mirostat_eta != 0 ? params->mirostat_eta : 0.1f;
}

hymba_status hy_sampler_check_params(hymba_sampler_params *params, struct hy_stage_order *order,
                                     hymba_error *error)
{
    hymba_status status = check_reals(params, error);
    if (status == HYMBA_OK)
        status = check_integers(params, error);
    if (status == HYMBA_OK)
        status = check_logit_bias(params, error);
    if (status == HYMBA_OK)
        status = check_breakers(params, error);
    if (status == HYMBA_OK)
        status = choose_order(params, order, error);
    if (status == HYMBA_OK)
        fill_in_defaults(params);
    return status;
}

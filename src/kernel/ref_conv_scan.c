#include "kernel/ref.h"

/* Input number index of a channel: the state's width - 1 old ones, then the segment's. */
static float conv_input(const struct hy_conv_args *args, const struct hy_state_sequence *sequence,
                        size_t channel, size_t index)
{
    size_t n_old = args->width - 1;
    if (index < n_old)
        return ((const float *)sequence->conv_before)[index * args->n + channel];
    return args->x[(sequence->segment.row + index - n_old) * args->x_stride + channel];
}

static void conv_channel(const struct hy_conv_args *args, const struct hy_state_sequence *sequence,
                         size_t channel)
{
    size_t n_rows = sequence->segment.n_rows;
    for (size_t t = 0; t < n_rows; t++) {
        float sum = args->bias[channel];
        for (size_t j = 0; j < args->width; j++)
            sum += args->weight[j * args->n + channel] * conv_input(args, sequence, channel, t + j);
        args->y[(sequence->segment.row + t) * args->y_stride + channel] = hy_ref_silu(sum);
    }
    float *after = sequence->conv_after;
    for (size_t j = 0; n_rows > 0 && j + 1 < args->width; j++)
        after[j * args->n + channel] = conv_input(args, sequence, channel, n_rows + j);
}

void hy_ref_conv(const struct hy_conv_args *args, size_t begin, size_t end)
{
    for (size_t unit = begin; unit < end; unit++)
        conv_channel(args, &args->sequences[unit / args->n], unit % args->n);
}

/* Above 20, log(1 + e^v) is v to f32 precision. */
static float softplus(float v)
{
    return v > 20.0f ? v : log1pf(expf(v));
}

static void scan_channel(const struct hy_scan_args *args, const struct hy_state_sequence *sequence,
                         size_t channel)
{
    const struct hy_segment *segment = &sequence->segment;
    const float *before = sequence->ssm_before;
    float *after = sequence->ssm_after;
    for (size_t t = segment->row; t < segment->row + segment->n_rows; t++) {
        const float *b = args->b + t * args->bc_stride;
        const float *c = args->c + t * args->bc_stride;
        float dt = softplus(args->dt[t * args->dt_stride + channel]);
        float x = args->x[t * args->x_stride + channel];
        float z = args->z[t * args->z_stride + channel];
        float sum = 0.0f;
        for (size_t s = 0; s < args->state_size; s++) {
            size_t i = s * args->n + channel;
            after[i] = expf(dt * args->a[i]) * before[i] + dt * x * b[s];
            sum += after[i] * c[s];
        }
        before = after;
        args->y[t * args->y_stride + channel] = (sum + args->d[channel] * x) * hy_ref_silu(z);
    }
}

void hy_ref_scan(const struct hy_scan_args *args, size_t begin, size_t end)
{
    for (size_t unit = begin; unit < end; unit++)
        scan_channel(args, &args->sequences[unit / args->n], unit % args->n);
}

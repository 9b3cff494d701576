/* Convolution and scan: a lane is a channel, so neighbouring lanes never mix. */
#include "kernel/ref.h"

/* Channels of one sequence. */
struct channels {
    const struct hy_state_sequence *sequence;
    size_t begin, end;
};

/* The part of units [unit, end) that belongs to unit's sequence; n channels a sequence. */
static struct channels channels_at(const struct hy_state_sequence *sequences, size_t n, size_t unit,
                                   size_t end)
{
    size_t begin = unit % n;
    return (struct channels){&sequences[unit / n], begin, hy_min_size(n, begin + (end - unit))};
}

/* Row index of a sequence's inputs: the state's width - 1 old ones, then the segment's. */
static const float *conv_row(const struct hy_conv_args *args,
                             const struct hy_state_sequence *sequence, size_t index)
{
    size_t n_old = args->width - 1;
    if (index < n_old)
        return (const float *)sequence->conv_before + index * args->n;
    return args->x + (sequence->segment.row + index - n_old) * args->x_stride;
}

static void conv_output(const struct hy_conv_args *args, struct channels channels, size_t t)
{
    float *y = args->y + (channels.sequence->segment.row + t) * args->y_stride;
    for (size_t i = channels.begin; i < channels.end; i += LANES) {
        size_t count = lanes_at(i, channels.end);
        vec sum = vec_load_n(args->bias + i, count);
        for (size_t j = 0; j < args->width; j++) {
            vec input = vec_load_n(conv_row(args, channels.sequence, t + j) + i, count);
            sum = vec_fma(vec_load_n(args->weight + j * args->n + i, count), input, sum);
        }
        vec_store_n(y + i, vec_silu(sum), count);
    }
}

static void conv_channels(const struct hy_conv_args *args, struct channels channels)
{
    size_t n_rows = channels.sequence->segment.n_rows;
    for (size_t t = 0; t < n_rows; t++)
        conv_output(args, channels, t);
    if (n_rows == 0)
        return;
    float *after = channels.sequence->conv_after;
    for (size_t j = 0; j + 1 < args->width; j++)
        memcpy(after + j * args->n + channels.begin,
               conv_row(args, channels.sequence, n_rows + j) + channels.begin,
               (channels.end - channels.begin) * sizeof(float));
}

static void conv(const struct hy_conv_args *args, size_t begin, size_t end)
{
    while (begin < end) {
        struct channels channels = channels_at(args->sequences, args->n, begin, end);
        conv_channels(args, channels);
        begin += channels.end - channels.begin;
    }
}

/* States of a channel that are kept near while a segment's rows pass. */
enum { NEAR_STATES = 64 };

/* All rows of a segment for count channels from i onwards; h and a are [state_size]. */
static void scan_rows(const struct hy_scan_args *args, const struct hy_segment *segment, size_t i,
                      size_t count, vec *h, const vec *a)
{
    vec d = vec_load_n(args->d + i, count);
    for (size_t t = segment->row; t < segment->row + segment->n_rows; t++) {
        const float *b = args->b + t * args->bc_stride;
        const float *c = args->c + t * args->bc_stride;
        vec dt = vec_softplus(vec_load_n(args->dt + t * args->dt_stride + i, count));
        vec x = vec_load_n(args->x + t * args->x_stride + i, count);
        vec z = vec_load_n(args->z + t * args->z_stride + i, count);
        vec input = vec_mul(dt, x), sum = vec_zero();
        for (size_t s = 0; s < args->state_size; s++) {
            vec decay = vec_exp(vec_mul(dt, a[s]));
            h[s] = vec_fma(decay, h[s], vec_mul(input, vec_all(b[s])));
            sum = vec_fma(h[s], vec_all(c[s]), sum);
        }
        vec y = vec_mul(vec_fma(d, x, sum), vec_silu(z));
        vec_store_n(args->y + t * args->y_stride + i, y, count);
    }
}

/* State and a are more streams than the hardware reads ahead by itself. */
enum { FETCH_CHANNELS = 64 };

static void scan_channels(const struct hy_scan_args *args, struct channels channels)
{
    vec h[NEAR_STATES], a[NEAR_STATES];
    if (channels.sequence->segment.n_rows == 0)
        return;
    for (size_t i = channels.begin; i < channels.end; i += LANES) {
        size_t count = lanes_at(i, channels.end);
        const float *before = (const float *)channels.sequence->ssm_before + i;
        float *after = (float *)channels.sequence->ssm_after + i;
        for (size_t s = 0; s < args->state_size; s++) {
            const float *a_row = args->a + s * args->n + i;
            h[s] = vec_load_n(before + s * args->n, count);
            a[s] = vec_load_n(a_row, count);
            __builtin_prefetch(before + s * args->n + FETCH_CHANNELS, 1, 3);
            __builtin_prefetch(a_row + FETCH_CHANNELS, 0, 3);
        }
        scan_rows(args, &channels.sequence->segment, i, count, h, a);
        for (size_t s = 0; s < args->state_size; s++)
            vec_store_n(after + s * args->n, h[s], count);
    }
}

static void scan(const struct hy_scan_args *args, size_t begin, size_t end)
{
    if (args->state_size > NEAR_STATES) {
        hy_ref_scan(args, begin, end);
        return;
    }
    while (begin < end) {
        struct channels channels = channels_at(args->sequences, args->n, begin, end);
        scan_channels(args, channels);
        begin += channels.end - channels.begin;
    }
}

// Selective scan of VMamba, one image and one block of channels at a time; see native.py for the shapes.
//
// Vectors run over channels, whose states stay in registers along a whole direction. Everything that does not depend
// on earlier tokens (projection, softplus) is computed for a chunk of tokens ahead of the recurrence, so that the
// latency of one token hides behind the others. All four directions add into one buffer in image order: nothing is
// permuted or copied.

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define HARDWARE_MAX(a, b) (vec) _mm512_max_ps((__m512)(a), (__m512)(b))
#elif defined(__AVX__)
#include <immintrin.h>
#define LANES 8
#define HARDWARE_MAX(a, b) (vec) _mm256_max_ps((__m256)(a), (__m256)(b))
#else
#define LANES 4
#endif
#define CHUNK 64    // tokens; a multiple of TOGETHER
#define TOGETHER 8  // tokens that share one load of each weight
#define DIRECTIONS 4
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));

typedef struct {
    const void *x;            // (batch, height, width, channels), float or bfloat16
    const float *projected;   // (batch, height, width, 4, rank + 2 states)
    const float *step_weight; // (4, rank, channels)
    const float *step_bias;   // (4, channels)
    const float *a;           // (4, states, channels), times log2(e)
    const float *d;           // (channels)
    void *y;                  // as x
    int64_t batch, height, width, channels, states, rank, bfloat16;
} Scan;

INLINE vec splat(float value) { return value - (vec){0}; }

INLINE vec larger(vec a, vec b) {
#ifdef HARDWARE_MAX
    return HARDWARE_MAX(a, b);
#else
    ivec take = a > b;
    return (vec)((take & (ivec)a) | (~take & (ivec)b));
#endif
}

INLINE vec load(const float *from) {
    vec value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE vec load_input(const void *from, int64_t at, const int bfloat16) {
    if (!bfloat16) return load((const float *)from + at);
    hvec half;
    memcpy(&half, (const uint16_t *)from + at, sizeof half);
    return (vec)(__builtin_convertvector(half, ivec) << 16);
}

INLINE void store_output(void *to, int64_t at, vec value, const int bfloat16) {
    if (bfloat16) {  // rounds to nearest, ties to even
        ivec bits = (ivec)value;
        ivec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        ivec nan = value != value;
        hvec half = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), hvec);
        memcpy((uint16_t *)to + at, &half, sizeof half);
    } else {
        memcpy((float *)to + at, &value, sizeof value);
    }
}

// 2^t for t <= 0, with a relative error of 1e-7; about 1e-38 below t = -126. The polynomial fits 2^f for |f| <= 1/2.
INLINE vec exp2_of_negative(vec t) {
    const float to_integer = 12582912.0f;  // 1.5 x 2^23: adding it rounds to an integer, held in the lowest bits
    t = larger(splat(-126.0f), t);  // keeps NaN
    vec rounded = t + to_integer;
    vec f = t - (rounded - to_integer);
    vec p = splat(1.3266970636323094e-3f);
    p = p * f + 9.675459936261177e-3f;
    p = p * f + 5.550742521882057e-2f;
    p = p * f + 2.4022121727466583e-1f;
    p = p * f + 6.931469440460205e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + ((ivec)rounded << 23));
}

// log(1 + exp(v)) = max(v, 0) + log(1 + e), e = exp(-|v|); the polynomial fits log(1 + e) / e for 0 <= e <= 1.
INLINE vec softplus(vec v) {
    vec minus_magnitude = (vec)((ivec)v | INT32_MIN);
    vec e = exp2_of_negative(minus_magnitude * 1.4426950408889634f);
    vec p = splat(-0.0031639994122087955f);
    p = p * e + 0.019487686455249786f;
    p = p * e - 0.05626952648162842f;
    p = p * e + 0.10532950609922409f;
    p = p * e - 0.15263274312019348f;
    p = p * e + 0.19661018252372742f;
    p = p * e - 0.24951167404651642f;
    p = p * e + 0.33329665660858154f;
    p = p * e - 0.49999889731407166f;
    p = p * e + 1.0f;
    return larger(splat(0.0f), v) + p * e;
}

// Scans `vectors` x LANES channels of one image, from `first` on; `sums` holds height x width x vectors vectors.
INLINE void scan_block(const Scan *s, int64_t image, int64_t first, vec *sums, const int states, const int vectors,
                       const int bfloat16) {
    const int64_t height = s->height, width = s->width, length = height * width, channels = s->channels;
    const int rank = s->rank, row = rank + 2 * states;
    const float *projected = s->projected + image * length * DIRECTIONS * row;
    const int64_t x_at = image * length * channels + first;
    vec weight[rank * vectors], bias[vectors], a[states * vectors], h[states * vectors];
    vec delta[CHUNK * vectors], update[CHUNK * vectors];
    int64_t where[CHUNK];  // positions of the chunk's tokens in the image

    for (int k = 0; k < DIRECTIONS; k++) {
        for (int v = 0; v < vectors; v++) {
            const int64_t channel = first + v * LANES;
            bias[v] = load(s->step_bias + k * channels + channel);
            for (int r = 0; r < rank; r++)
                weight[r * vectors + v] = load(s->step_weight + (k * rank + r) * channels + channel);
            for (int n = 0; n < states; n++) {
                a[n * vectors + v] = load(s->a + (k * states + n) * channels + channel);
                h[n * vectors + v] = splat(0.0f);
            }
        }
        // Direction 0 runs along rows, 1 along columns, 2 and 3 the same way backwards.
        const int64_t inner = k & 1 ? height : width, inner_stride = k & 1 ? width : 1, outer_stride = k & 1 ? 1 : width;
        int64_t i = 0, o = 0;
        for (int64_t start = 0; start < length; start += CHUNK) {
            const int count = length - start < CHUNK ? length - start : CHUNK;
            for (int t = 0; t < CHUNK; t++) {
                if (t < count) {
                    where[t] = o * outer_stride + i * inner_stride;
                    if (k >= 2) where[t] = length - 1 - where[t];
                    if (++i == inner) i = 0, o++;
                } else {
                    where[t] = where[t - 1];  // computed, never used
                }
            }
            for (int t = 0; t < CHUNK; t += TOGETHER) {
                const float *step[TOGETHER];
                for (int j = 0; j < TOGETHER; j++) step[j] = projected + (where[t + j] * DIRECTIONS + k) * row;
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++) {
                    vec sum[TOGETHER];
#pragma GCC unroll 8
                    for (int j = 0; j < TOGETHER; j++) sum[j] = bias[v];
                    for (int r = 0; r < rank; r++)
#pragma GCC unroll 8
                        for (int j = 0; j < TOGETHER; j++) sum[j] += weight[r * vectors + v] * step[j][r];
#pragma GCC unroll 8
                    for (int j = 0; j < TOGETHER; j++) delta[(t + j) * vectors + v] = sum[j];
                }
            }
            for (int t = 0; t < count; t++)
                for (int v = 0; v < vectors; v++) {
                    const vec positive = softplus(delta[t * vectors + v]);
                    delta[t * vectors + v] = positive;
                    update[t * vectors + v] =
                        positive * load_input(s->x, x_at + where[t] * channels + v * LANES, bfloat16);
                }
            for (int t = 0; t < count; t++) {
                const float *b = projected + (where[t] * DIRECTIONS + k) * row + rank, *c = b + states;
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++) {
                    const vec step = delta[t * vectors + v], u = update[t * vectors + v];
                    vec even = splat(0.0f), odd = splat(0.0f);  // two shorter chains of additions
#pragma GCC unroll 16
                    for (int n = 0; n < states; n++) {
                        vec *state = &h[n * vectors + v];
                        *state = exp2_of_negative(step * a[n * vectors + v]) * *state + u * b[n];
                        if (n & 1)
                            odd += *state * c[n];
                        else
                            even += *state * c[n];
                    }
                    vec *sum = &sums[where[t] * vectors + v];
                    *sum = k ? *sum + (even + odd) : even + odd;
                }
            }
        }
    }
    for (int v = 0; v < vectors; v++) {
        const vec d = load(s->d + first + v * LANES);
        for (int64_t l = 0; l < length; l++) {
            const int64_t at = x_at + l * channels + v * LANES;
            store_output(s->y, at, sums[l * vectors + v] + d * load_input(s->x, at, bfloat16), bfloat16);
        }
    }
}

int lanes(void) { return LANES; }

// Vectors of channels in a task: several for a single state, so that their short dependency chains overlap.
static int64_t vectors_of(const Scan *s) {
    if (s->states != 1) return 1;
    return s->channels % (4 * LANES) == 0 ? 4 : s->channels % (2 * LANES) == 0 ? 2 : 1;
}

// Floats of aligned scratch memory for each thread of `scan`.
int64_t scratch_floats(const Scan *s) { return s->height * s->width * vectors_of(s) * LANES; }

// Takes tasks (image, block of channels) from the shared counter `next` until none is left; `channels` must be a
// multiple of LANES.
void scan(const Scan *s, int64_t *next, float *scratch) {
    const int64_t block = vectors_of(s) * LANES, blocks = s->channels / block;
    int64_t task;
    while ((task = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < s->batch * blocks) {
        const int64_t image = task / blocks, first = task % blocks * block;
#define SCAN_BLOCK(states, vectors)                                             \
    if (s->bfloat16)                                                            \
        scan_block(s, image, first, (vec *)scratch, states, vectors, 1);        \
    else                                                                        \
        scan_block(s, image, first, (vec *)scratch, states, vectors, 0);
        if (s->states == 16) {  // with constants the compiler keeps the states in registers
            SCAN_BLOCK(16, 1)
        } else if (s->states != 1) {
            SCAN_BLOCK(s->states, 1)
        } else if (block == 4 * LANES) {
            SCAN_BLOCK(1, 4)
        } else if (block == 2 * LANES) {
            SCAN_BLOCK(1, 2)
        } else {
            SCAN_BLOCK(1, 1)
        }
    }
}

// The operations that a scan consists of, alone and from the nearest cache: the upper bound for this machine. Both
// return the number of operations; `values` holds 32 LANES floats.
#define APART __asm__ volatile("" ::: "memory")  // else the compiler moves invariant work out of the loop

int64_t exponentials(int64_t repeats, float *values) {
    vec *from = (vec *)values, *to = from + 16;
    for (int64_t i = 0; i < repeats; i++) {
        APART;
#pragma GCC unroll 16
        for (int n = 0; n < 16; n++) to[n] = exp2_of_negative(from[n]);
    }
    return repeats * 16 * LANES;
}

int64_t multiply_adds(int64_t repeats, float *values) {
    vec sums[16], factor = *(vec *)values;
#pragma GCC unroll 16
    for (int n = 0; n < 16; n++) sums[n] = ((vec *)values)[n] + (float)n;  // equal sums would be computed only once
    for (int64_t i = 0; i < repeats; i++) {
        APART;
#pragma GCC unroll 16
        for (int n = 0; n < 16; n++) sums[n] = sums[n] * factor + factor;
    }
#pragma GCC unroll 16
    for (int n = 0; n < 16; n++) ((vec *)values)[16 + n] = sums[n];
    return repeats * 16 * LANES;
}

/* See likely.h.

   Tokens lie in groups of 64. A bar that enough groups have a token above is found by halving between the lowest and
   the highest maximum of a group; only groups that reach it are looked into. What is not a number is above no bar. */

#include "likely.h"

#include <math.h>
#include <string.h>

#define HALVINGS 24

/* The same code for several units of the processor, chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_UNIT __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_UNIT
#endif

/* Vectors of 16, 8 and 4 numbers, and the mask that a comparison of two gives; compilers split what is too wide. */
typedef float float16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t mask16 __attribute__((vector_size(64)));
typedef float float8 __attribute__((vector_size(32), aligned(4)));
typedef int32_t mask8 __attribute__((vector_size(32)));
typedef float float4 __attribute__((vector_size(16), aligned(4)));
typedef int32_t mask4 __attribute__((vector_size(16)));

/* `left` where it is larger, `right` where it is not, or where `left` is not a number. */
#define LARGER(kind, mask, left, right) \
    ((kind)(((mask)(left) & ((left) > (right))) | ((mask)(right) & ~((left) > (right)))))

FOR_EACH_UNIT
static void find_maxima(const float *logits, float *maxima, ptrdiff_t groups) {
    const float16 lowest = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                            -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (ptrdiff_t group = 0; group < groups; group++) {
        const float16 *values = (const float16 *)(logits + group * GROUP);
        float16 first = LARGER(float16, mask16, values[0], lowest);
        float16 second = LARGER(float16, mask16, values[1], lowest);
        first = LARGER(float16, mask16, values[2], first);
        second = LARGER(float16, mask16, values[3], second);
        float16 lanes = LARGER(float16, mask16, first, second);
        float8 halves[2];
        memcpy(halves, &lanes, sizeof lanes);
        float8 eight = LARGER(float8, mask8, halves[0], halves[1]);
        float4 quarters[2];
        memcpy(quarters, &eight, sizeof eight);
        float4 four = LARGER(float4, mask4, quarters[0], quarters[1]);
        float left = four[0] > four[1] ? four[0] : four[1], right = four[2] > four[3] ? four[2] : four[3];
        maxima[group] = left > right ? left : right;
    }
}

FOR_EACH_UNIT
static ptrdiff_t count_from(const float *maxima, ptrdiff_t groups, float bar) {
    int32_t count = 0;
    for (ptrdiff_t group = 0; group < groups; group++)
        count += maxima[group] >= bar;
    return count;
}

/* A bar that at least `count` groups reach, and few more if it can be helped; NaN if not so many have a number. */
static float find_bar(const float *maxima, ptrdiff_t groups, ptrdiff_t count) {
    float low = INFINITY, high = -INFINITY;
    ptrdiff_t finite = 0;
    for (ptrdiff_t group = 0; group < groups; group++) {
        float value = maxima[group];
        if (value > -INFINITY) {
            finite++;
            low = value < low ? value : low;
            high = value > high ? value : high;
        }
    }
    if (finite < count)
        return NAN;
    for (int step = 0; step < HALVINGS && low < high; step++) {
        float middle = low + (high - low) / 2;
        ptrdiff_t reaching = count_from(maxima, groups, middle);
        if (reaching < count)
            high = middle;
        else
            low = middle;
        if (reaching >= count && reaching <= 2 * count + 16)
            break;
    }
    return low;
}

ptrdiff_t find_likely(const float *logits, ptrdiff_t tokens, ptrdiff_t count, float *maxima, candidate *found,
                      ptrdiff_t room) {
    ptrdiff_t groups = tokens / GROUP, held = 0;
    find_maxima(logits, maxima, groups);
    float bar = find_bar(maxima, groups, count);
    if (isnan(bar))
        return -1;
    for (ptrdiff_t group = 0; group <= groups; group++) { /* behind the last group, what is left of the tokens */
        if (group < groups && !(maxima[group] >= bar))
            continue;
        ptrdiff_t end = group < groups ? (group + 1) * GROUP : tokens;
        for (ptrdiff_t token = group * GROUP; token < end; token++)
            if (logits[token] >= bar) {
                if (held == room)
                    return -1;
                found[held++] = (candidate){(int32_t)token, logits[token], 0.0f};
            }
    }
    return held;
}

// Rows of float32 values to rows of blocks, with the best instruction set that the processor has.
//
// One source for all of them: the headers are included once for each. On x86-64 it must be compiled with
// -ffp-contract=off, since ggml's functions, compiled for the baseline, multiply and add apart there.
#pragma once

#if !defined(__GNUC__)
#error "needs the vector extensions of GCC or Clang; without this module ggml's own functions are used"
#endif

#include "blocks.h"
#include "scales.h"

// Encodes a stretch of weights: blocks of 256, or as many small ones as have those weights. `importance` is that of the
// weights' columns, or NULL; `mean_square` is that of the row, where the kind weighs errors by it.
typedef struct {
    int type;  // ggml_type
    size_t block_elements, block_bytes;
    void (*encode)(const float *x, const float *importance, float mean_square, void *out);
    int weighs_by_row;
} encoder;

// What a search with a minimum tries: `levels` + `first` + `step` * i over the span of the values, for i to `steps`
typedef struct {
    int levels;  // the largest level
    float first, step;
    int steps;
    int has_absolute_error;  // rather than a square one
} search_range;

// The searches without and with an importance matrix, which weighs by the mean square times `spread`
typedef struct {
    search_range plain, weighted;
    float spread;
} affine_kind;

#define WEIGHTED(highest) {.levels = highest, .first = -0.9f, .step = 0.05f, .steps = 36}
static const affine_kind q2_K = {{3, -0.5f, 0.1f, 15, .has_absolute_error = 1}, WEIGHTED(3), .spread = 1};
static const affine_kind q4_K = {{15, -1.f, 0.1f, 20, .has_absolute_error = 0}, WEIGHTED(15), .spread = 2};
static const affine_kind q5_K = {{31, -0.5f, 0.1f, 15, .has_absolute_error = 0}, WEIGHTED(31), .spread = 2};
static const search_range q4_1 = WEIGHTED(15), q5_1 = WEIGHTED(31);

#if defined(__x86_64__)
#include <immintrin.h>

#define NAME(x) x##_avx512
#define LANES 16
#define MAX_FLOATS _mm512_max_ps
#define MIN_FLOATS _mm512_min_ps
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
#include "kinds.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define NAME(x) x##_avx2
#define LANES 8
#define MAX_FLOATS _mm256_max_ps
#define MIN_FLOATS _mm256_min_ps
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#include "kinds.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define NAME(x) x##_baseline
#define LANES 4
#include "kinds.h"

enum { LONGEST_STRETCH = 512 };

typedef struct {
    const char *name;
    const encoder *encoders;
    size_t stretch;  // weights that an encoder is given at once
} instruction_set;

static const instruction_set instruction_sets[] = {  // the best first
#if defined(__x86_64__)
    {"avx512", encoders_avx512, STRETCH_avx512},
    {"avx2", encoders_avx2, STRETCH_avx2},
#endif
    {"baseline", encoders_baseline, STRETCH_baseline},
};

enum { KINDS = sizeof encoders_baseline / sizeof *encoders_baseline };

static int is_supported(const instruction_set *set) {
#if defined(__x86_64__)
    if (!strcmp(set->name, "avx512")) return __builtin_cpu_supports("avx512f");
    if (!strcmp(set->name, "avx2")) return __builtin_cpu_supports("avx2");
#endif
    return set->encoders == encoders_baseline;
}

// The one of that name, or the best one, if the processor has it
static const instruction_set *choose(const char *name) {
    for (size_t i = 0; i < sizeof instruction_sets / sizeof *instruction_sets; i++) {
        const instruction_set *set = &instruction_sets[i];
        if ((!name || !strcmp(name, set->name)) && is_supported(set)) return set;
    }
    return NULL;
}

static const encoder *find(const instruction_set *set, int type) {
    for (int i = 0; i < KINDS; i++)
        if (set->encoders[i].type == type) return &set->encoders[i];
    return NULL;
}

// The mean of a row's squares, summed up as ggml does
static float row_mean_square(const char *values, size_t columns) {
    float sum = 0;
    for (size_t i = 0; i < columns; i++) {
        float x;
        memcpy(&x, values + i * sizeof x, sizeof x);
        sum += x * x;
    }
    return sum / (float) columns;
}

// Encodes a row by `stretch` weights at a time. Values and bytes are copied to and from aligned memory, so that none of
// the caller's is read or written beyond the row's end, whatever its alignment.
static void encode_row(const encoder *kind, size_t stretch, const char *values, size_t columns, const char *importance,
                       char *out) {
    _Alignas(64) float x[LONGEST_STRETCH], column_importance[LONGEST_STRETCH];
    _Alignas(64) char encoded[LONGEST_STRETCH / 32 * sizeof(block_q8_0)];
    const float mean_square = importance && kind->weighs_by_row ? row_mean_square(values, columns) : 0;
    for (size_t first = 0; first < columns; first += stretch) {
        const size_t count = columns - first < stretch ? columns - first : stretch;
        const size_t bytes = count / kind->block_elements * kind->block_bytes;
        if (count < stretch) {
            memset(x, 0, sizeof x);
            memset(column_importance, 0, sizeof column_importance);
        }
        memcpy(x, values + first * sizeof(float), count * sizeof(float));
        if (importance) memcpy(column_importance, importance + first * sizeof(float), count * sizeof(float));
        kind->encode(x, importance ? column_importance : NULL, mean_square, encoded);
        memcpy(out, encoded, bytes);
        out += bytes;
    }
}

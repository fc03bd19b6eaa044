// What an importance matrix asks for beyond the searches: the weights of a block's elements, and levels for the scales
// of its sub-blocks that are weighed in turn, one scale at a time.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, make_qp_quants and make_qx_quants. The order of operations is theirs.
#pragma once

#include "blocks.h"

static inline float sum_of_squares(const float *x, size_t count) {
    float sum = 0;
    for (size_t i = 0; i < count; i++) sum += x[i] * x[i];
    return sum;
}

// Weights of elements from the importance of their columns
static inline void weigh(const float *x, const float *importance, float mean_square, int count, float *weights) {
    for (int i = 0; i < count; i++) weights[i] = importance[i] * __builtin_sqrtf(mean_square + x[i] * x[i]);
}

static inline float no_levels(int count, uint8_t *levels) {
    for (int i = 0; i < count; i++) levels[i] = 0;
    return 0;
}

// How far `scale` * level is from x, for levels rounded with `inverse`
static inline float scale_error(const float *x, const float *weight, int count, float inverse, int limit) {
    const float scale = 1 / inverse;
    float error = 0;
    for (int i = 0; i < count; i++) {
        const int level = nearest_int(inverse * x[i]);
        const float difference = x[i] - scale * (level < limit ? level : limit);
        error += weight[i] * difference * difference;
    }
    return error;
}

// Levels 0..limit of scales that are not negative; gives the scale of the scales. A negative one, from rounding
// errors alone, ends as whatever its level is in 8 bits.
static inline float positive_levels(const float *x, const float *weight, int count, int limit, uint8_t *levels) {
    float max = 0;
    for (int i = 0; i < count; i++) max = max > x[i] ? max : x[i];
    if (max < 1e-15f) return no_levels(count, levels);

    float inverse = limit / max, best_error = 0;
    for (int i = 0; i < count; i++) {
        const float difference = x[i] - 1 / inverse * (uint8_t) nearest_int(inverse * x[i]);
        best_error += weight[i] * difference * difference;
    }
    for (int step = -4; step <= 4; step++) {
        const float candidate = (0.1f * step + limit) / max;
        const float error = step ? scale_error(x, weight, count, candidate, limit) : best_error;
        if (error < best_error) {
            best_error = error;
            inverse = candidate;
        }
    }

    float sum_lx = 0, sum_l2 = 0;
    for (int i = 0; i < count; i++) {
        const int nearest = nearest_int(inverse * x[i]), level = nearest < limit ? nearest : limit;
        levels[i] = (uint8_t) level;
        sum_lx += weight[i] * x[i] * level;
        sum_l2 += weight[i] * level * level;
    }
    for (int turn = 0, has_changed = 1; turn < 5 && has_changed; turn++) {
        has_changed = 0;
        for (int i = 0; i < count; i++) {
            const float w = weight[i];
            float other_lx = sum_lx - w * x[i] * levels[i], other_l2 = sum_l2 - w * levels[i] * levels[i];
            if (!(other_lx > 0 && other_l2 > 0)) continue;
            const int nearest = nearest_int(x[i] * other_l2 / other_lx), level = nearest < limit ? nearest : limit;
            if (level == levels[i]) continue;
            other_lx += w * x[i] * level;
            other_l2 += w * level * level;
            if (other_lx * other_lx * sum_l2 > sum_lx * sum_lx * other_l2) {
                levels[i] = (uint8_t) level;
                sum_lx = other_lx;
                sum_l2 = other_l2;
                has_changed = 1;
            }
        }
    }
    return sum_l2 > 0 ? sum_lx / sum_l2 : 0;
}

// Levels -limit..limit-1, stored from 0 on, of scales of either sign; gives the scale of the scales
static inline float signed_levels(const float *x, const float *weight, int count, int limit, uint8_t *levels) {
    float extreme = 0, magnitude = 0;
    for (int i = 0; i < count; i++) {
        const float size = x[i] < 0 ? -x[i] : x[i];
        if (size > magnitude) {
            magnitude = size;
            extreme = x[i];
        }
    }
    if (magnitude < 1e-15f) return no_levels(count, levels);

    float scale = 0, best = 0, best_inverse = -(float) limit / extreme;
    for (int turn = 0; turn < 19; turn++) {
        const int step = turn == 0 ? 0 : turn <= 9 ? turn - 10 : turn - 9;  // 0, then -9..-1, then 1..9
        const float inverse = step ? -(limit + 0.1f * step) / extreme : best_inverse;
        float sum_lx = 0, sum_l2 = 0;
        for (int i = 0; i < count; i++) {
            const int level = clamp(nearest_int(inverse * x[i]), -limit, limit - 1);
            sum_lx += weight[i] * x[i] * level;
            sum_l2 += weight[i] * level * level;
        }
        if (step == 0) {
            scale = sum_l2 != 0 ? sum_lx / sum_l2 : 0;
            best = scale * sum_lx;
        } else if (sum_l2 > 0 && sum_lx * sum_lx > best * sum_l2) {
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
            best_inverse = inverse;
        }
    }
    for (int i = 0; i < count; i++)
        levels[i] = (uint8_t) (limit + clamp(nearest_int(best_inverse * x[i]), -limit, limit - 1));
    return scale;
}

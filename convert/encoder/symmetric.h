// Q3_K and Q6_K: blocks whose sub-blocks of 16 have a scale only.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_q3_K_ref, quantize_row_q3_K_impl and those of Q6_K.
// Included after search.h, once for each instruction set.

enum { NAME(GROUPS) = BLOCK / 16 / LANES };

// Searches the groups' scales with levels -limit..limit-1. `weights` are those of the elements, or NULL for their
// squares. `levels` are stored from 0 on.
SEARCH void NAME(search_symmetric_block)(const float *x, const float *weights, int limit, floats *value, float *scales,
                                         uint8_t *levels) {
    for (int group = 0; group < NAME(GROUPS); group++, value += 16) {
        const int first = group * LANES;
        floats weight[16], scale, inverse;
        for (int i = 0; i < 16; i++) {
            value[i] = NAME(gather)(x + first * 16, 16, i);
            weight[i] = weights ? NAME(gather)(weights + first * 16, 16, i) : value[i] * value[i];
        }
        if (!NAME(search_symmetric)(value, weight, 16, limit, 0, &scale, &inverse))
            NAME(search_symmetric)(value, weight, 16, limit, 1, &scale, &inverse);
        memcpy(scales + first, &scale, sizeof scale);
        for (int i = 0; i < 16; i++)
            NAME(scatter)(NAME(symmetric_level)(value[i], inverse, limit), levels + first * 16, 16, i);
    }
}

// Levels from the scales that the block can express; those of the search stay where such a scale is zero
SEARCH void NAME(symmetric_levels)(const floats *value, const float *expressed, int limit, uint8_t *levels) {
    for (int group = 0; group < NAME(GROUPS); group++, value += 16, levels += 16 * LANES) {
        const floats d = NAME(load)(expressed + group * LANES);
        const ints is_searched = d == 0;
        const int has_searched = NAME(any)(is_searched);
        for (int i = 0; i < 16; i++) {
            const floats rounded = NAME(level)(value[i] / d, -limit, limit - 1, 1) + (float) limit;
            const ints level = __builtin_convertvector(rounded, ints);
            if (has_searched) {
                for (int lane = 0; lane < LANES; lane++)
                    if (!is_searched[lane]) levels[lane * 16 + i] = (uint8_t) level[lane];
            } else
                NAME(scatter)(level, levels, 16, i);
        }
    }
}

// The one with the largest magnitude
static inline float NAME(largest_scale)(const float *scales) {
    float largest = 0, magnitude = 0;
    for (int j = 0; j < 16; j++) {
        const float size = scales[j] < 0 ? -scales[j] : scales[j];
        if (size > magnitude) {
            magnitude = size;
            largest = scales[j];
        }
    }
    return largest;
}

static void NAME(encode_q3_K_block)(const float *x, const float *importance, block_q3_K *block) {
    floats value[BLOCK / LANES];
    float scales[16], expressed[16];
    uint8_t levels[BLOCK], scale_levels[16];
    if (importance) {
        float weights[BLOCK], sums[16];
        weigh(x, importance, 2 * sum_of_squares(x, BLOCK) / BLOCK, BLOCK, weights);
        for (int j = 0; j < 16; j++) {
            sums[j] = 0;
            for (int i = 0; i < 16; i++) sums[j] += weights[16 * j + i];
        }
        NAME(search_symmetric_block)(x, weights, 4, value, scales, levels);
        block->d = half_of(signed_levels(scales, sums, 16, 32, scale_levels));
    } else {
        for (int group = 0; group < NAME(GROUPS); group++) {
            floats *group_value = value + group * 16, level[16];
            for (int i = 0; i < 16; i++) group_value[i] = NAME(gather)(x + group * LANES * 16, 16, i);
            const floats scale = NAME(search_in_turns)(group_value, 4, level);
            memcpy(scales + group * LANES, &scale, sizeof scale);
            for (int i = 0; i < 16; i++)
                NAME(scatter)(__builtin_convertvector(level[i], ints), levels + group * LANES * 16, 16, i);
        }
        const float largest = NAME(largest_scale)(scales), inverse = largest != 0 ? -32.f / largest : 0;
        block->d = half_of(largest != 0 ? 1 / inverse : 0);
        for (int j = 0; j < 16; j++) {
            const int level = clamp((int8_t) nearest_int(inverse * scales[j]), -32, 31);
            scale_levels[j] = largest != 0 ? (uint8_t) (level + 32) : 0;  // 0, which stands for -32, as in ggml
        }
    }
    memset(block->scales, 0, sizeof block->scales);
    for (int j = 0; j < 16; j++) {
        block->scales[j % 8] |= (uint8_t) ((scale_levels[j] & 15) << 4 * (j / 8));
        block->scales[8 + j % 4] |= (uint8_t) (scale_levels[j] >> 4 << 2 * (j / 4));
        expressed[j] = float_of_half(block->d) * (scale_levels[j] - 32);
    }
    NAME(symmetric_levels)(value, expressed, 4, levels);
    memset(block->hmask, 0, sizeof block->hmask);
    for (int i = 0; i < BLOCK; i++) block->hmask[i % 32] |= (uint8_t) (levels[i] >> 2 << i / 32);
    pack_pairs_of_bits(levels, block->qs);
}

static void NAME(encode_q6_K_block)(const float *x, const float *importance, block_q6_K *block) {
    floats value[BLOCK / LANES];
    float scales[16], expressed[16];
    uint8_t levels[BLOCK];
    NAME(search_symmetric_block)(x, importance, 32, value, scales, levels);
    const float largest = NAME(largest_scale)(scales);
    if (-1e-15f < largest && largest < 1e-15f) {
        memset(block, 0, sizeof *block);
        return;
    }
    const float inverse = -128.f / largest;
    block->d = half_of(1 / inverse);
    for (int j = 0; j < 16; j++) {
        const int level = nearest_int(inverse * scales[j]);
        block->scales[j] = (int8_t) (level < 127 ? level : 127);
        expressed[j] = float_of_half(block->d) * block->scales[j];
    }
    NAME(symmetric_levels)(value, expressed, 32, levels);
    for (int half = 0; half < 2; half++) {
        const uint8_t *l = levels + 128 * half;
        for (int i = 0; i < 32; i++) {
            block->ql[64 * half + i] = (uint8_t) ((l[i] & 15) | (l[i + 64] & 15) << 4);
            block->ql[64 * half + i + 32] = (uint8_t) ((l[i + 32] & 15) | (l[i + 96] & 15) << 4);
            block->qh[32 * half + i] =
                (uint8_t) (l[i] >> 4 | l[i + 32] >> 4 << 2 | l[i + 64] >> 4 << 4 | l[i + 96] >> 4 << 6);
        }
    }
}

static void NAME(encode_q3_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    for (int b = 0; b < BLOCKS; b++)
        NAME(encode_q3_K_block)(x + BLOCK * b, importance ? importance + BLOCK * b : NULL, (block_q3_K *) out + b);
}

static void NAME(encode_q6_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    for (int b = 0; b < BLOCKS; b++)
        NAME(encode_q6_K_block)(x + BLOCK * b, importance ? importance + BLOCK * b : NULL, (block_q6_K *) out + b);
}

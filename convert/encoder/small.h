// Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32, a block in each lane.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_q4_0_ref, quantize_row_q4_0_impl and those of the others.
// Included after search.h, once for each instruction set.

// Scales and levels, stored from 0 on, of blocks without a minimum: levels -limit..limit-1
SEARCH void NAME(encode_scaled)(const float *x, const float *importance, float mean_square, int limit, float *scales,
                                uint8_t *levels) {
    float weights[STRETCH];
    if (importance) weigh(x, importance, mean_square, STRETCH, weights);
    for (int first = 0; first < STRETCH / 32; first += LANES, levels += 32 * LANES) {
        floats value[32], weight[32], scale, inverse;
        for (int i = 0; i < 32; i++) value[i] = NAME(gather)(x + 32 * first, 32, i);
        if (importance) {
            for (int i = 0; i < 32; i++) weight[i] = NAME(gather)(weights + 32 * first, 32, i);
            if (!NAME(search_symmetric)(value, weight, 32, limit, 0, &scale, &inverse))
                NAME(search_symmetric)(value, weight, 32, limit, 1, &scale, &inverse);
            for (int i = 0; i < 32; i++) NAME(scatter)(NAME(symmetric_level)(value[i], inverse, limit), levels, 32, i);
        } else {
            floats extreme = NAME(splat)(0), magnitude = extreme;
            for (int i = 0; i < 32; i++) {
                const floats size = NAME(magnitude)(value[i]);
                extreme = NAME(select)(magnitude < size, value[i], extreme);
                magnitude = NAME(larger)(magnitude, size);
            }
            scale = extreme / -(float) limit;
            inverse = NAME(select)(scale != 0, 1 / scale, NAME(splat)(0));
            for (int i = 0; i < 32; i++) {
                const floats scaled = value[i] * inverse;
                NAME(scatter)(NAME(cut_level)(scaled + (limit + 0.5f), 2 * limit - 1), levels, 32, i);
            }
        }
        memcpy(scales + first, &scale, sizeof scale);
    }
}

// Scales, minima and levels 0..range.levels of blocks
SEARCH void NAME(encode_ranged)(const float *x, const float *importance, float mean_square, search_range range,
                                float *scales, float *mins, uint8_t *levels) {
    float weights[STRETCH];
    if (importance) weigh(x, importance, mean_square, STRETCH, weights);
    for (int first = 0; first < STRETCH / 32; first += LANES, levels += 32 * LANES) {
        floats value[32], weight[32], scale, min;
        for (int i = 0; i < 32; i++) value[i] = NAME(gather)(x + 32 * first, 32, i);
        if (importance) {
            NAME(affine) found;
            for (int i = 0; i < 32; i++) weight[i] = NAME(gather)(weights + 32 * first, 32, i);
            if (!NAME(search_affine)(value, weight, 32, range, 0, &found))
                NAME(search_affine)(value, weight, 32, range, 1, &found);
            scale = found.scale;
            min = -found.min;
            for (int i = 0; i < 32; i++) {
                const floats scaled = found.level_inverse * (value[i] - found.level_min);
                const floats level = NAME(level)(scaled, 0, range.levels, 1);
                NAME(scatter)(__builtin_convertvector(level, ints), levels, 32, i);
            }
        } else {
            floats max = value[0];
            min = max;
            for (int i = 1; i < 32; i++) {
                min = NAME(smaller)(value[i], min);
                max = NAME(larger)(value[i], max);
            }
            scale = (max - min) / (float) range.levels;
            const floats inverse = NAME(select)(scale != 0, 1 / scale, NAME(splat)(0));
            for (int i = 0; i < 32; i++) {
                const floats scaled = (value[i] - min) * inverse;
                NAME(scatter)(NAME(cut_level)(scaled + 0.5f, range.levels), levels, 32, i);
            }
        }
        memcpy(scales + first, &scale, sizeof scale);
        memcpy(mins + first, &min, sizeof min);
    }
}

static void NAME(encode_q4_0)(const float *x, const float *importance, float mean_square, void *out) {
    block_q4_0 *block = out;
    float scales[STRETCH / 32];
    uint8_t levels[STRETCH];
    NAME(encode_scaled)(x, importance, mean_square, 8, scales, levels);
    for (int j = 0; j < STRETCH / 32; j++) {
        block[j].d = half_of(scales[j]);
        pack_nibbles(levels + 32 * j, block[j].qs);
    }
}

static void NAME(encode_q5_0)(const float *x, const float *importance, float mean_square, void *out) {
    block_q5_0 *block = out;
    float scales[STRETCH / 32];
    uint8_t levels[STRETCH];
    NAME(encode_scaled)(x, importance, mean_square, 16, scales, levels);
    for (int j = 0; j < STRETCH / 32; j++) {
        block[j].d = half_of(scales[j]);
        pack_nibbles(levels + 32 * j, block[j].qs);
        pack_fifth_bits(levels + 32 * j, block[j].qh);
    }
}

static void NAME(encode_q4_1)(const float *x, const float *importance, float mean_square, void *out) {
    block_q4_1 *block = out;
    float scales[STRETCH / 32], mins[STRETCH / 32];
    uint8_t levels[STRETCH];
    NAME(encode_ranged)(x, importance, mean_square, q4_1, scales, mins, levels);
    for (int j = 0; j < STRETCH / 32; j++) {
        block[j].d = half_of(scales[j]);
        block[j].m = half_of(mins[j]);
        pack_nibbles(levels + 32 * j, block[j].qs);
    }
}

static void NAME(encode_q5_1)(const float *x, const float *importance, float mean_square, void *out) {
    block_q5_1 *block = out;
    float scales[STRETCH / 32], mins[STRETCH / 32];
    uint8_t levels[STRETCH];
    NAME(encode_ranged)(x, importance, mean_square, q5_1, scales, mins, levels);
    for (int j = 0; j < STRETCH / 32; j++) {
        block[j].d = half_of(scales[j]);
        block[j].m = half_of(mins[j]);
        pack_nibbles(levels + 32 * j, block[j].qs);
        pack_fifth_bits(levels + 32 * j, block[j].qh);
    }
}

// The levels of Q8_0 round ties away from zero, and weigh nothing.
static void NAME(encode_q8_0)(const float *x, const float *importance, float mean_square, void *out) {
    (void) importance, (void) mean_square;
    block_q8_0 *block = out;
    for (int j = 0; j < STRETCH / 32; j++, x += 32) {
        floats value[32 / LANES], magnitude = NAME(splat)(0);
        float largest = 0;
        for (int i = 0; i < 32 / LANES; i++) {
            value[i] = NAME(load)(x + LANES * i);
            magnitude = NAME(larger)(NAME(magnitude)(value[i]), magnitude);
        }
        for (int lane = 0; lane < LANES; lane++)
            if (magnitude[lane] > largest) largest = magnitude[lane];
        const float scale = largest / 127, inverse = scale != 0 ? 1 / scale : 0;
        block[j].d = half_of(scale);
        for (int i = 0; i < 32 / LANES; i++) {
            const floats scaled = value[i] * inverse, even = (scaled + 12582912.f) - 12582912.f, rest = scaled - even;
            ints level = __builtin_convertvector(even, ints);
            level -= (rest == 0.5f) & (scaled > 0);  // -1 where it is true
            level += (rest == -0.5f) & (scaled < 0);
            NAME(scatter)(level, (uint8_t *) block[j].qs + LANES * i, 1, 0);
        }
    }
}

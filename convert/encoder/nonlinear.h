// IQ4_NL and IQ4_XS: levels are entries of a codebook whose steps grow with the distance from zero.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_iq4_nl_impl.
// Included after search.h, once for each instruction set.

// Scales of blocks or sub-blocks of 32, whose elements stand in `value` with a block in each lane. `weights` are those
// of the elements, or NULL for their squares.
SEARCH void NAME(search_nonlinear)(const float *x, const float *weights, floats *value, float *scales) {
    for (int first = 0; first < STRETCH / 32; first += LANES, value += 32) {
        floats weight[32];
        for (int i = 0; i < 32; i++) {
            value[i] = NAME(gather)(x + 32 * first, 32, i);
            weight[i] = weights ? NAME(gather)(weights + 32 * first, 32, i) : value[i] * value[i];
        }
        const floats scale = NAME(search_codebook)(value, weight);
        memcpy(scales + first, &scale, sizeof scale);
    }
}

// The bytes of the entries nearest to value / scale, of blocks whose bytes stand `stride` apart
SEARCH void NAME(encode_entries)(const floats *value, const float *scales, uint8_t *qs, size_t stride) {
    uint8_t levels[STRETCH];
    for (int first = 0; first < STRETCH / 32; first += LANES, value += 32) {
        const floats scale = NAME(load)(scales + first);
        const floats inverse = NAME(select)(scale != 0, 1 / scale, NAME(splat)(0));
        for (int i = 0; i < 32; i++)
            NAME(scatter)(NAME(codebook_level)(inverse * value[i]), levels + 32 * first, 32, i);
    }
    for (int j = 0; j < STRETCH / 32; j++) pack_nibbles(levels + 32 * j, qs + stride * j);
}

static void NAME(encode_iq4_nl)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_iq4_nl *block = out;
    floats value[STRETCH / LANES];
    float weights[STRETCH], scales[STRETCH / 32];
    for (int i = 0; importance && i < STRETCH; i += 32)
        weigh(x + i, importance + i, sum_of_squares(x + i, 32) * (2.f / 32), 32, weights + i);
    NAME(search_nonlinear)(x, importance ? weights : NULL, value, scales);
    for (int j = 0; j < STRETCH / 32; j++) block[j].d = half_of(scales[j]);
    NAME(encode_entries)(value, scales, block->qs, sizeof *block);
}

// Levels of a block's 8 scales, which become what these can express
static inline void NAME(encode_scales)(float *scales, block_iq4_xs *block) {
    float largest = 0, magnitude = 0;
    for (int j = 0; j < 8; j++) {
        const float size = scales[j] < 0 ? -scales[j] : scales[j];
        if (size > magnitude) {
            magnitude = size;
            largest = scales[j];
        }
    }
    const float d = -largest / 32, inverse = d != 0 ? 1 / d : 0;
    block->d = half_of(d);
    block->scales_h = 0;
    memset(block->scales_l, 0, sizeof block->scales_l);
    for (int j = 0; j < 8; j++) {
        const int level = clamp(nearest_int(inverse * scales[j]), -32, 31);
        scales[j] = d * level;
        block->scales_l[j / 2] |= (uint8_t) (((level + 32) & 15) << 4 * (j % 2));
        block->scales_h |= (uint16_t) ((level + 32) >> 4 << 2 * j);
    }
}

static void NAME(encode_iq4_xs)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_iq4_xs *block = out;
    floats value[STRETCH / LANES];
    float weights[STRETCH], scales[STRETCH / 32];
    uint8_t qs[STRETCH / 2];
    for (int i = 0; importance && i < STRETCH; i += BLOCK)
        weigh(x + i, importance + i, sum_of_squares(x + i, BLOCK) * (2.f / BLOCK), BLOCK, weights + i);
    NAME(search_nonlinear)(x, importance ? weights : NULL, value, scales);
    for (int b = 0; b < BLOCKS; b++) NAME(encode_scales)(scales + 8 * b, block + b);
    NAME(encode_entries)(value, scales, qs, 16);
    for (int b = 0; b < BLOCKS; b++) memcpy(block[b].qs, qs + BLOCK / 2 * b, BLOCK / 2);
}

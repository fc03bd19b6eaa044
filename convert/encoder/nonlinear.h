// IQ4_NL and IQ4_XS: levels are entries of a codebook whose steps grow with the distance from zero.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_iq4_nl_impl.
// Included after search.h, once for each instruction set.

// Scales of 8 blocks or sub-blocks of 32, whose elements stand in `value` with a block in each lane. `weights` are those
// of the elements, or NULL for their squares.
SEARCH void NAME(search_nonlinear)(const float *x, const float *weights, floats *value, float *scales) {
    for (int first = 0; first < 8; first += LANES, value += 32) {
        floats weight[32];
        for (int i = 0; i < 32; i++) {
            value[i] = NAME(gather)(x + 32 * first, 32, i);
            weight[i] = weights ? NAME(gather)(weights + 32 * first, 32, i) : value[i] * value[i];
        }
        const floats scale = NAME(search_codebook)(value, weight);
        memcpy(scales + first, &scale, sizeof scale);
    }
}

// The bytes of the entries nearest to value / scale, of 8 blocks whose bytes stand `stride` apart
SEARCH void NAME(encode_entries)(const floats *value, const float *scales, uint8_t *qs, size_t stride) {
    uint8_t levels[BLOCK];
    for (int first = 0; first < 8; first += LANES, value += 32) {
        const floats scale = NAME(load)(scales + first);
        const floats inverse = NAME(select)(scale != 0, 1 / scale, NAME(splat)(0));
        for (int i = 0; i < 32; i++)
            NAME(scatter)(NAME(codebook_level)(inverse * value[i]), levels + 32 * first, 32, i);
    }
    for (int j = 0; j < 8; j++) pack_nibbles(levels + 32 * j, qs + stride * j);
}

static void NAME(encode_iq4_nl)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_iq4_nl *block = out;
    floats value[BLOCK / LANES];
    float weights[BLOCK], scales[8];
    for (int j = 0; importance && j < 8; j++)
        weigh(x + 32 * j, importance + 32 * j, sum_of_squares(x + 32 * j, 32) * (2.f / 32), 32, weights + 32 * j);
    NAME(search_nonlinear)(x, importance ? weights : NULL, value, scales);
    for (int j = 0; j < 8; j++) block[j].d = half_of(scales[j]);
    NAME(encode_entries)(value, scales, block->qs, sizeof *block);
}

static void NAME(encode_iq4_xs)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_iq4_xs *block = out;
    floats value[BLOCK / LANES];
    float weights[BLOCK], scales[8], largest = 0, magnitude = 0;
    if (importance) weigh(x, importance, sum_of_squares(x, BLOCK) * (2.f / BLOCK), BLOCK, weights);
    NAME(search_nonlinear)(x, importance ? weights : NULL, value, scales);
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
    NAME(encode_entries)(value, scales, block->qs, 16);
}

// Q2_K, Q4_K and Q5_K: blocks whose sub-blocks have a scale and a minimum.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_q2_K_ref, quantize_row_q2_K_impl and those of Q4_K and Q5_K.
// Included after search.h, once for each instruction set.

// What is known of the blocks between the searches and their bytes; element i of sub-block j is in lane j % LANES of
// value[j / LANES * count + i]
typedef struct {
    floats value[STRETCH / LANES];
    NAME(affine) found[STRETCH / 16 / LANES];
    uint16_t d[BLOCKS], dmin[BLOCKS];
    uint8_t scales[STRETCH / 16], mins[STRETCH / 16];  // levels of the sub-blocks' scales and minima
} NAME(affine_blocks);

// Weights without an importance matrix: magnitudes, or these and a typical value
SEARCH void NAME(plain_weights)(const floats *x, int count, int has_typical, floats *weight) {
    floats typical = NAME(splat)(0);
    if (has_typical) {
        floats squares = typical;
        for (int i = 0; i < count; i++) squares += x[i] * x[i];
        typical = NAME(root)(squares / (float) count);
    }
    for (int i = 0; i < count; i++) weight[i] = typical + NAME(magnitude)(x[i]);
}

// Levels up to `limit` of scales or minima that are all alike important; gives the scale of the scales
static inline float NAME(even_levels)(const float *x, int count, int limit, uint8_t *levels) {
    float max = 0;
    for (int i = 0; i < count; i++)
        if (x[i] > max) max = x[i];
    const float inverse = max > 0 ? limit / max : 0;
    for (int i = 0; i < count; i++) levels[i] = (uint8_t) nearest_int(inverse * x[i]);
    return max / limit;
}

// Searches the sub-blocks of `count` elements, then the levels of their scales and minima up to `limit`
SEARCH void NAME(search_affine_blocks)(const float *x, const float *importance, affine_kind kind, int count, int limit,
                                       NAME(affine_blocks) *blocks) {
    const int sub_blocks = BLOCK / count;
    const search_range range = importance ? kind.weighted : kind.plain;
    float weights[STRETCH], sums[STRETCH / 16] = {0}, scales[STRETCH / 16], mins[STRETCH / 16];
    for (int i = 0; importance && i < STRETCH; i += BLOCK)
        weigh(x + i, importance + i, kind.spread * sum_of_squares(x + i, BLOCK) / BLOCK, BLOCK, weights + i);
    for (int first = 0; first < STRETCH / count; first += LANES) {
        NAME(affine) *found = &blocks->found[first / LANES];
        floats *value = blocks->value + first / LANES * count, weight[32], sum = NAME(splat)(0);
        for (int i = 0; i < count; i++) value[i] = NAME(gather)(x + first * count, count, i);
        if (importance) {
            for (int i = 0; i < count; i++) sum += weight[i] = NAME(gather)(weights + first * count, count, i);
        } else
            NAME(plain_weights)(value, count, !range.has_absolute_error, weight);
        if (!NAME(search_affine)(value, weight, count, range, 0, found))
            NAME(search_affine)(value, weight, count, range, 1, found);
        memcpy(scales + first, &found->scale, sizeof found->scale);
        memcpy(mins + first, &found->min, sizeof found->min);
        memcpy(sums + first, &sum, sizeof sum);
    }
    for (int b = 0, j = 0; b < BLOCKS; b++, j += sub_blocks) {
        if (importance) {
            blocks->d[b] = half_of(positive_levels(scales + j, sums + j, sub_blocks, limit, blocks->scales + j));
            blocks->dmin[b] = half_of(positive_levels(mins + j, sums + j, sub_blocks, limit, blocks->mins + j));
        } else {
            blocks->d[b] = half_of(NAME(even_levels)(scales + j, sub_blocks, limit, blocks->scales + j));
            blocks->dmin[b] = half_of(NAME(even_levels)(mins + j, sub_blocks, limit, blocks->mins + j));
        }
    }
}

// Levels 0..highest of the elements, from the scales and minima that the blocks can express
SEARCH void NAME(affine_levels)(const NAME(affine_blocks) *blocks, int count, int highest, uint8_t *levels) {
    for (int first = 0; first < STRETCH / count; first += LANES) {
        const NAME(affine) *found = &blocks->found[first / LANES];
        const floats *value = blocks->value + first / LANES * count;
        floats d, dm;
        for (int lane = 0; lane < LANES; lane++) {
            const int j = first + lane, b = j * count / BLOCK;
            d[lane] = float_of_half(blocks->d[b]) * blocks->scales[j];
            dm[lane] = float_of_half(blocks->dmin[b]) * blocks->mins[j];
        }
        const ints is_searched = d == 0;  // ggml leaves the search's levels where the scale rounds to zero
        const int has_searched = NAME(any)(is_searched);
        for (int i = 0; i < count; i++) {
            floats level = NAME(level)((value[i] + dm) / d, 0, highest, 1);
            if (has_searched) {
                const floats scaled = found->level_inverse * (value[i] - found->level_min);
                const floats searched = NAME(level)(scaled, 0, highest, 1);
                level = NAME(select)(is_searched, searched, level);
            }
            NAME(scatter)(__builtin_convertvector(level, ints), levels + first * count, count, i);
        }
    }
}

static void NAME(encode_q2_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_q2_K *block = out;
    NAME(affine_blocks) searched;
    uint8_t levels[STRETCH];
    NAME(search_affine_blocks)(x, importance, q2_K, 16, 15, &searched);
    for (int j = 0; j < STRETCH / 16; j++) {
        const uint8_t packed = (uint8_t) (searched.scales[j] | searched.mins[j] << 4);
        block[j / 16].scales[j % 16] = packed;
        searched.scales[j] = packed & 15;
        searched.mins[j] = packed >> 4;
    }
    NAME(affine_levels)(&searched, 16, 3, levels);
    for (int b = 0; b < BLOCKS; b++) {
        block[b].d = searched.d[b];
        block[b].dmin = searched.dmin[b];
        pack_pairs_of_bits(levels + BLOCK * b, block[b].qs);
    }
}

// The bytes of the scales and minima of blocks of 8 sub-blocks, 12 for each, and the levels up to `highest`
SEARCH void NAME(encode_pairs)(const float *x, const float *importance, affine_kind kind, int highest, int is_clamped,
                               NAME(affine_blocks) *searched, uint8_t (*packed)[12], uint8_t *levels) {
    NAME(search_affine_blocks)(x, importance, kind, 32, 63, searched);
    for (int j = 0; is_clamped && j < STRETCH / 32; j++) {
        searched->scales[j] = searched->scales[j] < 63 ? searched->scales[j] : 63;
        searched->mins[j] = searched->mins[j] < 63 ? searched->mins[j] : 63;
    }
    for (int b = 0; b < BLOCKS; b++) {
        uint8_t *scales = searched->scales + 8 * b, *mins = searched->mins + 8 * b;
        pack_scales_and_mins(scales, mins, packed[b]);
        unpack_scales_and_mins(packed[b], scales, mins);
    }
    NAME(affine_levels)(searched, 32, highest, levels);
}

static void NAME(encode_q4_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_q4_K *block = out;
    NAME(affine_blocks) searched;
    uint8_t levels[STRETCH], packed[BLOCKS][12];
    NAME(encode_pairs)(x, importance, q4_K, 15, !importance, &searched, packed, levels);
    for (int b = 0; b < BLOCKS; b++, block++) {
        block->d = searched.d[b];
        block->dmin = searched.dmin[b];
        memcpy(block->scales, packed[b], sizeof block->scales);
        for (int pair = 0; pair < 4; pair++) {
            const uint8_t *l = levels + BLOCK * b + 64 * pair;
            for (int i = 0; i < 32; i++) block->qs[32 * pair + i] = (uint8_t) (l[i] | l[i + 32] << 4);
        }
    }
}

static void NAME(encode_q5_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_q5_K *block = out;
    NAME(affine_blocks) searched;
    uint8_t levels[STRETCH], packed[BLOCKS][12];
    NAME(encode_pairs)(x, importance, q5_K, 31, 1, &searched, packed, levels);
    for (int b = 0; b < BLOCKS; b++, block++) {
        block->d = searched.d[b];
        block->dmin = searched.dmin[b];
        memcpy(block->scales, packed[b], sizeof block->scales);
        memset(block->qh, 0, sizeof block->qh);
        for (int pair = 0; pair < 4; pair++) {
            const uint8_t *l = levels + BLOCK * b + 64 * pair;
            for (int i = 0; i < 32; i++) {
                block->qs[32 * pair + i] = (uint8_t) ((l[i] & 15) | (l[i + 32] & 15) << 4);
                block->qh[i] |= (uint8_t) (l[i] >> 4 << 2 * pair | l[i + 32] >> 4 << (2 * pair + 1));
            }
        }
    }
}

// Q2_K, Q4_K and Q5_K: blocks whose sub-blocks have a scale and a minimum.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_q2_K_ref, quantize_row_q2_K_impl and those of Q4_K and Q5_K.
// Included after search.h, once for each instruction set.

// What is known of a block between the searches and its bytes; element i of sub-block j is in lane j % LANES of
// value[j / LANES * count + i]
typedef struct {
    floats value[BLOCK / LANES];
    NAME(affine) found[BLOCK / 16 / LANES];
    uint16_t d, dmin;
    uint8_t scales[16], mins[16];  // levels of the sub-blocks' scales and minima
} NAME(affine_block);

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
SEARCH void NAME(search_affine_block)(const float *x, const float *importance, affine_kind kind, int count, int limit,
                                      NAME(affine_block) *block) {
    const int sub_blocks = BLOCK / count;
    const search_range range = importance ? kind.weighted : kind.plain;
    float weights[BLOCK], sums[16] = {0}, scales[16], mins[16];
    if (importance) weigh(x, importance, kind.spread * sum_of_squares(x, BLOCK) / BLOCK, BLOCK, weights);
    for (int group = 0; group < sub_blocks / LANES; group++) {
        const int first = group * LANES;
        NAME(affine) *found = &block->found[group];
        floats *value = block->value + group * count, weight[32], sum = NAME(splat)(0);
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
    if (importance) {
        block->d = half_of(positive_levels(scales, sums, sub_blocks, limit, block->scales));
        block->dmin = half_of(positive_levels(mins, sums, sub_blocks, limit, block->mins));
    } else {
        block->d = half_of(NAME(even_levels)(scales, sub_blocks, limit, block->scales));
        block->dmin = half_of(NAME(even_levels)(mins, sub_blocks, limit, block->mins));
    }
}

// Levels 0..highest of the elements, from the scales and minima that the block can express
SEARCH void NAME(affine_levels)(const NAME(affine_block) *block, int count, int highest, uint8_t *levels) {
    for (int group = 0; group < BLOCK / count / LANES; group++) {
        const NAME(affine) *found = &block->found[group];
        floats d, dm;
        for (int lane = 0; lane < LANES; lane++) {
            d[lane] = float_of_half(block->d) * block->scales[group * LANES + lane];
            dm[lane] = float_of_half(block->dmin) * block->mins[group * LANES + lane];
        }
        const ints is_searched = d == 0;  // ggml leaves the search's levels where the scale rounds to zero
        const int has_searched = NAME(any)(is_searched);
        for (int i = 0; i < count; i++) {
            const floats value = block->value[group * count + i];
            floats level = NAME(level)((value + dm) / d, 0, highest, 1);
            if (has_searched) {
                const floats searched = NAME(level)(found->level_inverse * (value - found->level_min), 0, highest, 1);
                level = NAME(select)(is_searched, searched, level);
            }
            NAME(scatter)(__builtin_convertvector(level, ints), levels + group * LANES * count, count, i);
        }
    }
}

static void NAME(encode_q2_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_q2_K *block = out;
    NAME(affine_block) searched;
    uint8_t levels[BLOCK];
    NAME(search_affine_block)(x, importance, q2_K, 16, 15, &searched);
    for (int j = 0; j < 16; j++) {
        block->scales[j] = (uint8_t) (searched.scales[j] | searched.mins[j] << 4);
        searched.scales[j] = block->scales[j] & 15;
        searched.mins[j] = block->scales[j] >> 4;
    }
    NAME(affine_levels)(&searched, 16, 3, levels);
    block->d = searched.d;
    block->dmin = searched.dmin;
    pack_pairs_of_bits(levels, block->qs);
}

// The scales and minima of a block of 8 sub-blocks, and its levels up to `highest`
SEARCH void NAME(encode_pairs)(const float *x, const float *importance, affine_kind kind, int highest, int is_clamped,
                               NAME(affine_block) *searched, uint8_t *packed, uint8_t *levels) {
    NAME(search_affine_block)(x, importance, kind, 32, 63, searched);
    for (int j = 0; is_clamped && j < 8; j++) {
        searched->scales[j] = searched->scales[j] < 63 ? searched->scales[j] : 63;
        searched->mins[j] = searched->mins[j] < 63 ? searched->mins[j] : 63;
    }
    pack_scales_and_mins(searched->scales, searched->mins, packed);
    unpack_scales_and_mins(packed, searched->scales, searched->mins);
    NAME(affine_levels)(searched, 32, highest, levels);
}

static void NAME(encode_q4_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_q4_K *block = out;
    NAME(affine_block) searched;
    uint8_t levels[BLOCK];
    NAME(encode_pairs)(x, importance, q4_K, 15, !importance, &searched, block->scales, levels);
    block->d = searched.d;
    block->dmin = searched.dmin;
    for (int pair = 0; pair < 4; pair++) {
        const uint8_t *l = levels + 64 * pair;
        for (int i = 0; i < 32; i++) block->qs[32 * pair + i] = (uint8_t) (l[i] | l[i + 32] << 4);
    }
}

static void NAME(encode_q5_K)(const float *x, const float *importance, float mean_square, void *out) {
    (void) mean_square;
    block_q5_K *block = out;
    NAME(affine_block) searched;
    uint8_t levels[BLOCK];
    NAME(encode_pairs)(x, importance, q5_K, 31, 1, &searched, block->scales, levels);
    block->d = searched.d;
    block->dmin = searched.dmin;
    memset(block->qh, 0, sizeof block->qh);
    for (int pair = 0; pair < 4; pair++) {
        const uint8_t *l = levels + 64 * pair;
        for (int i = 0; i < 32; i++) {
            block->qs[32 * pair + i] = (uint8_t) ((l[i] & 15) | (l[i + 32] & 15) << 4);
            block->qh[i] |= (uint8_t) (l[i] >> 4 << 2 * pair | l[i + 32] >> 4 << (2 * pair + 1));
        }
    }
}

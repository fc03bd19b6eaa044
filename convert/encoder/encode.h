// Encoders of whole blocks: search, then ggml's scalar arithmetic for the block's own scales, then the final levels.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_q4_K_ref, quantize_row_q5_K_ref, quantize_row_q6_K_ref.
// Included after search.h, once for each instruction set.

// Scale, minimum and levels of the 8 sub-blocks of 32 of a block, as Q4_K and Q5_K have them
typedef struct {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t levels[BLOCK];
} NAME(affine_block);

static inline void NAME(encode_affine)(const float *x, search_range range, NAME(affine_block) *out) {
    enum { SUB_BLOCKS = 8, COUNT = 32 };
    float scales[SUB_BLOCKS], mins[SUB_BLOCKS];
    floats value[SUB_BLOCKS / LANES][COUNT];
    NAME(affine) found[SUB_BLOCKS / LANES];
    for (int group = 0; group < SUB_BLOCKS / LANES; group++) {
        floats weight[COUNT], squares = NAME(splat)(0);
        for (int i = 0; i < COUNT; i++) {
            value[group][i] = NAME(gather)(x + group * LANES * COUNT, COUNT, i);
            squares += value[group][i] * value[group][i];
        }
        const floats typical = NAME(root)(squares / COUNT);
        for (int i = 0; i < COUNT; i++) weight[i] = typical + NAME(magnitude)(value[group][i]);
        if (!NAME(search_affine)(value[group], weight, range, 0, &found[group]))
            NAME(search_affine)(value[group], weight, range, 1, &found[group]);
        for (int lane = 0; lane < LANES; lane++) {
            scales[group * LANES + lane] = found[group].scale[lane];
            mins[group * LANES + lane] = found[group].min[lane];
        }
    }
    float max_scale = 0, max_min = 0;
    for (int j = 0; j < SUB_BLOCKS; j++) {
        if (scales[j] > max_scale) max_scale = scales[j];
        if (mins[j] > max_min) max_min = mins[j];
    }
    const float inverse_scale = max_scale > 0 ? 63.f / max_scale : 0.f;
    const float inverse_min = max_min > 0 ? 63.f / max_min : 0.f;
    uint8_t scale_levels[SUB_BLOCKS], min_levels[SUB_BLOCKS];
    for (int j = 0; j < SUB_BLOCKS; j++) {
        const uint8_t scale = (uint8_t) nearest_int(inverse_scale * scales[j]);
        const uint8_t min = (uint8_t) nearest_int(inverse_min * mins[j]);
        scale_levels[j] = scale < 63 ? scale : 63;
        min_levels[j] = min < 63 ? min : 63;
    }
    out->d = half_of(max_scale / 63.f);
    out->dmin = half_of(max_min / 63.f);
    for (int j = 0; j < 4; j++) {
        out->scales[j] = (uint8_t) (scale_levels[j] | (scale_levels[j + 4] >> 4) << 6);
        out->scales[j + 4] = (uint8_t) (min_levels[j] | (min_levels[j + 4] >> 4) << 6);
        out->scales[j + 8] = (uint8_t) ((scale_levels[j + 4] & 15) | (min_levels[j + 4] & 15) << 4);
    }
    for (int group = 0; group < SUB_BLOCKS / LANES; group++) {
        floats d, dm;
        for (int lane = 0; lane < LANES; lane++) {
            d[lane] = float_of_half(out->d) * scale_levels[group * LANES + lane];
            dm[lane] = float_of_half(out->dmin) * min_levels[group * LANES + lane];
        }
        const ints is_searched = d == 0;  // ggml leaves the search's levels where the scale rounds to zero
        for (int i = 0; i < COUNT; i++) {
            floats level = NAME(level)((value[group][i] + dm) / d, 0, range.levels, 1);
            if (NAME(any)(is_searched)) {
                const floats offset = value[group][i] - found[group].level_min;
                const floats searched = NAME(level)(found[group].level_inverse * offset, 0, range.levels, 1);
                level = NAME(select)(is_searched, searched, level);
            }
            for (int lane = 0; lane < LANES; lane++)
                out->levels[(group * LANES + lane) * COUNT + i] = (uint8_t) level[lane];
        }
    }
}

static void NAME(encode_q4_K)(const float *x, void *out) {
    block_q4_K *block = out;
    NAME(affine_block) encoded;
    NAME(encode_affine)(x, (search_range) {.levels = 15, .first = -1.f, .step = 0.1f, .steps = 20}, &encoded);
    block->d = encoded.d;
    block->dmin = encoded.dmin;
    memcpy(block->scales, encoded.scales, sizeof block->scales);
    for (int pair = 0; pair < 4; pair++) {
        const uint8_t *levels = encoded.levels + 64 * pair;
        for (int i = 0; i < 32; i++) block->qs[32 * pair + i] = (uint8_t) (levels[i] | levels[i + 32] << 4);
    }
}

static void NAME(encode_q5_K)(const float *x, void *out) {
    block_q5_K *block = out;
    NAME(affine_block) encoded;
    NAME(encode_affine)(x, (search_range) {.levels = 31, .first = -0.5f, .step = 0.1f, .steps = 15}, &encoded);
    block->d = encoded.d;
    block->dmin = encoded.dmin;
    memcpy(block->scales, encoded.scales, sizeof block->scales);
    memset(block->qh, 0, sizeof block->qh);
    for (int pair = 0; pair < 4; pair++) {
        const uint8_t *levels = encoded.levels + 64 * pair;
        for (int i = 0; i < 32; i++) {
            block->qs[32 * pair + i] = (uint8_t) ((levels[i] & 15) | (levels[i + 32] & 15) << 4);
            block->qh[i] |= (uint8_t) (levels[i] >> 4 << 2 * pair | levels[i + 32] >> 4 << (2 * pair + 1));
        }
    }
}

static void NAME(encode_q6_K)(const float *x, void *out) {
    enum { SUB_BLOCKS = 16, COUNT = 16, GROUPS = SUB_BLOCKS / LANES };
    block_q6_K *block = out;
    float scales[SUB_BLOCKS];
    floats value[GROUPS][COUNT], inverse[GROUPS];
    for (int group = 0; group < GROUPS; group++) {
        floats scale;
        for (int i = 0; i < COUNT; i++) value[group][i] = NAME(gather)(x + group * LANES * COUNT, COUNT, i);
        if (!NAME(search_symmetric)(value[group], 32, 0, &scale, &inverse[group]))
            NAME(search_symmetric)(value[group], 32, 1, &scale, &inverse[group]);
        for (int lane = 0; lane < LANES; lane++) scales[group * LANES + lane] = scale[lane];
    }
    float max_scale = 0, largest = 0;
    for (int j = 0; j < SUB_BLOCKS; j++) {
        const float size = scales[j] < 0 ? -scales[j] : scales[j];
        if (size > largest) {
            largest = size;
            max_scale = scales[j];
        }
    }
    if (largest < 1e-15f) {
        memset(block, 0, sizeof *block);
        return;
    }
    const float inverse_scale = -128.f / max_scale;
    block->d = half_of(1 / inverse_scale);
    for (int j = 0; j < SUB_BLOCKS; j++) {
        const int level = nearest_int(inverse_scale * scales[j]);
        block->scales[j] = (int8_t) (level < 127 ? level : 127);
    }
    uint8_t levels[BLOCK];
    for (int group = 0; group < GROUPS; group++) {
        floats d;
        for (int lane = 0; lane < LANES; lane++)
            d[lane] = float_of_half(block->d) * block->scales[group * LANES + lane];
        const ints is_searched = d == 0;
        for (int i = 0; i < COUNT; i++) {
            floats level = NAME(level)(value[group][i] / d, -32, 31, 1) + 32;
            if (NAME(any)(is_searched)) {
                // where the search had nothing but zeros, ggml leaves a 0 that stands for -32
                const floats searched = NAME(level)(inverse[group] * value[group][i], -32, 31, 1) + 32;
                const floats kept = NAME(select)(inverse[group] == 0, NAME(splat)(0), searched);
                level = NAME(select)(is_searched, kept, level);
            }
            for (int lane = 0; lane < LANES; lane++)
                levels[(group * LANES + lane) * COUNT + i] = (uint8_t) level[lane];
        }
    }
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

static const encoder NAME(encoders)[] = {
    {12, sizeof(block_q4_K), NAME(encode_q4_K)},
    {13, sizeof(block_q5_K), NAME(encode_q5_K)},
    {14, sizeof(block_q6_K), NAME(encode_q6_K)},
};

#undef floats
#undef ints

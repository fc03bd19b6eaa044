// Encodes rows with edge's encoder and with ggml's functions: what tools/check_encoder_arm.py runs in an emulator.
//
// Reads cases from standard input, each a header and float32 values, and writes the blocks of both, ours first.

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "../convert/encoder/rows.h"

typedef struct {
    int32_t type, rows, columns, has_importance;
} header;

typedef size_t ggml_encoder(const float *, void *, int64_t rows, int64_t columns, const float *importance);
extern ggml_encoder quantize_q4_0, quantize_q4_1, quantize_q5_0, quantize_q5_1, quantize_q8_0, quantize_q2_K,
    quantize_q3_K, quantize_q4_K, quantize_q5_K, quantize_q6_K, quantize_iq4_nl, quantize_iq4_xs;

static ggml_encoder *const ggml_encoders[] = {
    [2] = quantize_q4_0,  [3] = quantize_q4_1,  [6] = quantize_q5_0,  [7] = quantize_q5_1,
    [8] = quantize_q8_0,  [10] = quantize_q2_K, [11] = quantize_q3_K, [12] = quantize_q4_K,
    [13] = quantize_q5_K, [14] = quantize_q6_K, [20] = quantize_iq4_nl, [23] = quantize_iq4_xs,
};

// What ggml-quants.c needs of the rest of ggml
void ggml_abort(const char *file, int line, const char *format, ...) {
    fprintf(stderr, "%s:%d: %s\n", file, line, format);
    exit(1);
}

size_t ggml_type_size(int type) { return find(choose(NULL), type)->block_bytes; }

size_t ggml_row_size(int type, int64_t columns) {
    const encoder *kind = find(choose(NULL), type);
    return (size_t) columns / kind->block_elements * kind->block_bytes;
}

const char *ggml_type_name(int type) { return type < 0 ? "" : "a type"; }

static void *read_floats(size_t count) {
    void *values = malloc(count * sizeof(float));
    if (!values || fread(values, sizeof(float), count, stdin) != count) exit(1);
    return values;
}

int main(void) {
    const instruction_set *set = choose(NULL);
    header each;
    while (fread(&each, sizeof each, 1, stdin) == 1) {
        const size_t rows = (size_t) each.rows, columns = (size_t) each.columns;
        const encoder *kind = find(set, each.type);
        const size_t row_bytes = columns / kind->block_elements * kind->block_bytes, bytes = rows * row_bytes;
        float *values = read_floats(rows * columns), *importance = each.has_importance ? read_floats(columns) : NULL;
        char *ours = malloc(bytes), *theirs = malloc(bytes);
        for (size_t i = 0; i < rows; i++)
            encode_row(kind, set->stretch, (const char *) (values + i * columns), columns, (const char *) importance,
                       ours + i * row_bytes);
        ggml_encoders[each.type](values, theirs, each.rows, each.columns, importance);
        fwrite(ours, 1, bytes, stdout);
        fwrite(theirs, 1, bytes, stdout);
        free(values), free(importance), free(ours), free(theirs);
    }
    return 0;
}

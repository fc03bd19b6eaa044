// Python module convert._encoder: quantized rows at the speed of the processor's vectors, with ggml's bits.
//
// One source for every instruction set: the headers are included once for each, and the best that the processor has is
// chosen when the module is loaded. Must be compiled with -ffp-contract=off, since ggml's functions multiply and add
// apart on x86-64.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

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

static const instruction_set *chosen;

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

PyDoc_STRVAR(encode_doc,
             "encode(type, values, out, columns, importance=None)\n--\n\n"
             "Encode rows of float32 values as a ggml type.\n\n"
             "`columns` is a multiple of the type's block, `out` of exactly the encoded size, and `importance` has a\n"
             "float32 for each column. All are contiguous. Other threads run meanwhile.");

// Whether the sizes fit, in bytes; sets the error if not. `importance` is -1 where there is none.
static int fits(const encoder *kind, Py_ssize_t columns, Py_ssize_t values, Py_ssize_t out, Py_ssize_t importance) {
    const Py_ssize_t elements = (Py_ssize_t) kind->block_elements, bytes = (Py_ssize_t) kind->block_bytes;
    const Py_ssize_t width = (Py_ssize_t) sizeof(float);
    if (columns <= 0 || columns % elements || columns > PY_SSIZE_T_MAX / width)
        PyErr_Format(PyExc_ValueError, "%zd columns do not fill blocks of %zd", columns, elements);
    else if (values % (columns * width))
        PyErr_Format(PyExc_ValueError, "%zd bytes of values are no rows of %zd columns", values, columns);
    else if (out / bytes * elements != values / width || out % bytes)
        PyErr_Format(PyExc_ValueError, "%zd bytes of values do not fill %zd bytes of blocks", values, out);
    else if (importance != -1 && importance != columns * width)
        PyErr_Format(PyExc_ValueError, "%zd bytes of importance for %zd columns", importance, columns);
    else
        return 1;
    return 0;
}

static PyObject *encode(PyObject *module, PyObject *args) {
    int type;
    Py_ssize_t columns;
    Py_buffer values, out, importance = {.len = -1};
    PyObject *importance_object = Py_None, *result = NULL;
    if (!PyArg_ParseTuple(args, "iy*w*n|O", &type, &values, &out, &columns, &importance_object)) return NULL;
    const instruction_set *set = chosen;
    const encoder *kind = find(set, type);
    if (!kind)
        PyErr_Format(PyExc_ValueError, "no encoder for type %d", type);
    else if ((importance_object == Py_None || !PyObject_GetBuffer(importance_object, &importance, PyBUF_SIMPLE)) &&
             fits(kind, columns, values.len, out.len, importance.len)) {
        if (!importance.buf && values.len) columns = values.len / (Py_ssize_t) sizeof(float);  // one row, few ends
        const Py_ssize_t rows = values.len / (columns * (Py_ssize_t) sizeof(float));
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < rows; i++)
            encode_row(kind, set->stretch, (const char *) values.buf + values.len / rows * i, (size_t) columns,
                       importance.buf, (char *) out.buf + out.len / rows * i);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    if (importance.obj) PyBuffer_Release(&importance);
    PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    return result;
}

PyDoc_STRVAR(types_doc, "types()\n--\n\nThe ggml types that can be encoded.");

static PyObject *types(PyObject *module, PyObject *unused) {
    PyObject *result = PyTuple_New(KINDS);
    for (int i = 0; result && i < KINDS; i++) PyTuple_SET_ITEM(result, i, PyLong_FromLong(chosen->encoders[i].type));
    return result;
}

PyDoc_STRVAR(use_doc,
             "use(variant=None)\n--\n\n"
             "Choose the instruction set by name, or the best that the processor has; gives its name.");

static PyObject *use(PyObject *module, PyObject *args) {
    const char *wanted = NULL;
    if (!PyArg_ParseTuple(args, "|z", &wanted)) return NULL;
    const instruction_set *set = choose(wanted);
    if (!set) return PyErr_Format(PyExc_ValueError, "no variant %s on this processor", wanted);
    chosen = set;
    return PyUnicode_FromString(set->name);
}

PyDoc_STRVAR(variant_doc, "variant()\n--\n\nThe name of the instruction set in use.");

static PyObject *current_variant(PyObject *module, PyObject *unused) {
    return PyUnicode_FromString(chosen->name);
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS, encode_doc},
    {"types", types, METH_NOARGS, types_doc},
    {"use", use, METH_VARARGS, use_doc},
    {"variant", current_variant, METH_NOARGS, variant_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_encoder", "Quantized rows with ggml's bits, a sub-block in each lane of a vector.", -1,
    methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__encoder(void) {
    chosen = choose(NULL);
    return PyModule_Create(&definition);
}

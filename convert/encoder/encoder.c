// Python module convert._encoder: K-quant rows at the speed of the processor's vectors, with ggml's bits.
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

typedef struct {
    int type;          // ggml_type
    size_t block_bytes;
    void (*encode)(const float *x, void *out);
} encoder;

// What a search with a minimum tries: `levels` + `first` + `step` * i over the span of the values, for i to `steps`
typedef struct {
    int levels;  // the largest level
    float first, step;
    int steps;
} search_range;

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define NAME(x) x##_avx2
#define LANES 8
#define MAX_FLOATS _mm256_max_ps
#define MIN_FLOATS _mm256_min_ps
#include "lanes.h"
#include "search.h"
#include "encode.h"
#undef NAME
#undef LANES
#undef MAX_FLOATS
#undef MIN_FLOATS
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define NAME(x) x##_baseline
#define LANES 4
#include "lanes.h"
#include "search.h"
#include "encode.h"
#undef NAME
#undef LANES

enum { KINDS = sizeof encoders_baseline / sizeof *encoders_baseline };

static const encoder *chosen = encoders_baseline;
static const char *variant = "baseline";

static const char *choose(const char *wanted) {
#if defined(__x86_64__)
    if ((!wanted || !strcmp(wanted, "avx2")) && __builtin_cpu_supports("avx2")) {
        chosen = encoders_avx2;
        return variant = "avx2";
    }
#endif
    if (!wanted || !strcmp(wanted, "baseline")) {
        chosen = encoders_baseline;
        return variant = "baseline";
    }
    return NULL;
}

static const encoder *find(int type) {
    for (int i = 0; i < KINDS; i++)
        if (chosen[i].type == type) return &chosen[i];
    return NULL;
}

PyDoc_STRVAR(encode_doc,
             "encode(type, values, out)\n--\n\nEncode float32 values as a ggml type; both contiguous, a multiple of 256\n"
             "values, `out` of exactly the encoded size. Other threads run meanwhile.");

static PyObject *encode(PyObject *module, PyObject *args) {
    int type;
    Py_buffer values, out;
    if (!PyArg_ParseTuple(args, "iy*w*", &type, &values, &out)) return NULL;
    const encoder *kind = find(type);
    const Py_ssize_t blocks = values.len / (Py_ssize_t) (BLOCK * sizeof(float));
    PyObject *result = NULL;
    if (!kind)
        PyErr_Format(PyExc_ValueError, "no encoder for type %d", type);
    else if (values.len % (Py_ssize_t) (BLOCK * sizeof(float)) || out.len != blocks * (Py_ssize_t) kind->block_bytes)
        PyErr_Format(PyExc_ValueError, "%zd bytes of values do not fill %zd bytes of blocks", values.len, out.len);
    else {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < blocks; i++)
            kind->encode((const float *) values.buf + BLOCK * i, (char *) out.buf + (Py_ssize_t) kind->block_bytes * i);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    return result;
}

PyDoc_STRVAR(types_doc, "types()\n--\n\nThe ggml types that can be encoded.");

static PyObject *types(PyObject *module, PyObject *unused) {
    PyObject *result = PyTuple_New(KINDS);
    for (int i = 0; result && i < KINDS; i++) PyTuple_SET_ITEM(result, i, PyLong_FromLong(chosen[i].type));
    return result;
}

PyDoc_STRVAR(use_doc,
             "use(variant=None)\n--\n\nChoose the instruction set by name, or the best that the processor has; gives its name.");

static PyObject *use(PyObject *module, PyObject *args) {
    const char *wanted = NULL;
    if (!PyArg_ParseTuple(args, "|z", &wanted)) return NULL;
    const char *name = choose(wanted);
    if (!name) return PyErr_Format(PyExc_ValueError, "no variant %s on this processor", wanted);
    return PyUnicode_FromString(name);
}

PyDoc_STRVAR(variant_doc, "variant()\n--\n\nThe name of the instruction set in use.");

static PyObject *current_variant(PyObject *module, PyObject *unused) {
    return PyUnicode_FromString(variant);
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS, encode_doc},
    {"types", types, METH_NOARGS, types_doc},
    {"use", use, METH_VARARGS, use_doc},
    {"variant", current_variant, METH_NOARGS, variant_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_encoder", "K-quant rows with ggml's bits, a sub-block in each lane of a vector.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__encoder(void) {
    choose(NULL);
    return PyModule_Create(&definition);
}

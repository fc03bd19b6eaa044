// Python module convert._encoder: quantized rows at the speed of the processor's vectors, with ggml's bits.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "rows.h"

static const instruction_set *chosen;

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

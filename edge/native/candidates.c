/* The native half of edge/candidates.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "likely.h"

static PyObject *likely_candidates(PyObject *module, PyObject *arguments) {
    Py_buffer logits, maxima, found;
    Py_ssize_t count, result = -1;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*nw*w*", &logits, &count, &maxima, &found))
        return NULL;
    Py_ssize_t tokens = logits.len / (Py_ssize_t)sizeof(float);
    if (count < 1 || maxima.len / (Py_ssize_t)sizeof(float) < tokens / GROUP)
        PyErr_SetString(PyExc_ValueError, "a count of at least 1, and room for the maximum of each group");
    else
        result = find_likely(logits.buf, tokens, count, maxima.buf, found.buf, found.len / (Py_ssize_t)sizeof(candidate));
    PyBuffer_Release(&logits);
    PyBuffer_Release(&maxima);
    PyBuffer_Release(&found);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(result);
}

static PyMethodDef methods[] = {
    {"likely_candidates", likely_candidates, METH_VARARGS,
     "How many were written to `found`, by ascending id: the `count` highest logits, their equals and maybe more.\n\n"
     "-1 if there are not enough numbers, or too many for `found`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "edge.native._candidates", NULL, 0, methods, NULL, NULL, NULL,
                                        NULL};

PyMODINIT_FUNC PyInit__candidates(void) { return PyModule_Create(&definition); }

/* Several decode steps of one sequence in one call, each with the token that was chosen after the one before.

   llama.cpp's functions are called by their addresses; what they take is laid out here as in llama.h, and LAYOUT says
   how that came out, to be compared with what the binding knows. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdbool.h>

#include "likely.h"

typedef struct {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos;
    int32_t *n_seq_id;
    int32_t **seq_id;
    int8_t *logits;
} batch_struct;

typedef struct {
    candidate *data;
    size_t size;
    int64_t selected;
    bool sorted;
} candidate_array;

typedef int32_t decode_function(void *context, batch_struct batch);
typedef float *logits_function(void *context, int32_t index);
typedef void apply_function(void *chain, candidate_array *candidates);

typedef struct {
    candidate *found;
    Py_ssize_t room;
    float *maxima;
    Py_ssize_t tokens, count;
    void *chain;
    apply_function *apply;
} chooser;

/* A token for logits, by a chain that is shown the highest of them; -1 where they leave no plain choice. */
static int32_t choose(const chooser *how, const float *logits) {
    Py_ssize_t held = find_likely(logits, how->tokens, how->count, how->maxima, how->found, how->room);
    if (held < 1)
        return -1;
    for (Py_ssize_t index = 0; index < held; index++)
        if (!(how->found[index].logit < INFINITY))
            return -1;
    candidate_array candidates = {how->found, (size_t)held, -1, false};
    how->apply(how->chain, &candidates);
    candidate chosen = candidates.data[candidates.selected];
    return chosen.logit > -INFINITY ? chosen.id : -1;
}

static bool is_among(int32_t token, const int32_t *tokens, Py_ssize_t count) {
    for (Py_ssize_t index = 0; index < count; index++)
        if (tokens[index] == token)
            return true;
    return false;
}

static PyObject *run(PyObject *module, PyObject *arguments) {
    unsigned long long decode_address, logits_address, apply_address, context_address, batch_address, chain_address;
    Py_ssize_t vocabulary_size, count;
    Py_buffer found, maxima, ends, chosen, interruption;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "(KKK)KK(Kw*w*n)ny*w*y*", &decode_address, &logits_address, &apply_address,
                          &context_address, &batch_address, &chain_address, &found, &maxima, &count, &vocabulary_size,
                          &ends, &chosen, &interruption))
        return NULL;
    decode_function *decode = (decode_function *)(uintptr_t)decode_address;
    logits_function *logits_at = (logits_function *)(uintptr_t)logits_address;
    void *context = (void *)(uintptr_t)context_address;
    batch_struct batch = *(batch_struct *)(uintptr_t)batch_address;
    const chooser how = {
        .found = found.buf,
        .room = found.len / (Py_ssize_t)sizeof(candidate),
        .maxima = maxima.buf,
        .tokens = vocabulary_size,
        .count = count,
        .chain = (void *)(uintptr_t)chain_address,
        .apply = (apply_function *)(uintptr_t)apply_address,
    };
    const Py_ssize_t end_count = ends.len / (Py_ssize_t)sizeof(int32_t);
    const Py_ssize_t limit = chosen.len / (Py_ssize_t)sizeof(int32_t);
    const volatile char *is_interrupted = interruption.buf;
    int32_t *tokens = chosen.buf;
    Py_ssize_t steps = 0, held = 0;
    const char *misuse = NULL;
    if (batch.n_tokens != 1)
        misuse = "a batch of one token";
    else if (count < 1 || maxima.len / (Py_ssize_t)sizeof(float) < vocabulary_size / GROUP || interruption.len < 1)
        misuse = "a count of at least 1, room for the maximum of each group, and a byte that interrupts";
    else {
        Py_BEGIN_ALLOW_THREADS
        while (held < limit && decode(context, batch) == 0) {
            steps++;
            const float *logits = logits_at(context, 0);
            int32_t token = logits ? choose(&how, logits) : -1;
            if (token < 0)
                break;
            tokens[held++] = token;
            if (*is_interrupted || is_among(token, ends.buf, end_count))
                break;
            batch.token[0] = token;
            batch.pos[0]++;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&found);
    PyBuffer_Release(&maxima);
    PyBuffer_Release(&ends);
    PyBuffer_Release(&chosen);
    PyBuffer_Release(&interruption);
    if (misuse) {
        PyErr_SetString(PyExc_ValueError, misuse);
        return NULL;
    }
    return Py_BuildValue("nn", steps, held);
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS,
     "Steps that were decoded, and tokens that were chosen: as many, or one less where a choice is left to the caller.\n\n"
     "The first step decodes the batch of one token, each further one the token chosen before, one position further.\n"
     "They end when `chosen` is full, behind one of `ends`, when the first byte of `interruption` is not 0, and where a\n"
     "step fails, which then has changed nothing."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "edge.native._multi_step", NULL, 0, methods, NULL, NULL, NULL,
                                        NULL};

PyMODINIT_FUNC PyInit__multi_step(void) {
    PyObject *module = PyModule_Create(&definition);
    PyObject *layout = Py_BuildValue(
        "(nnnnnnnn)(nnnnn)(nnnn)", sizeof(batch_struct), offsetof(batch_struct, n_tokens), offsetof(batch_struct, token),
        offsetof(batch_struct, embd), offsetof(batch_struct, pos), offsetof(batch_struct, n_seq_id),
        offsetof(batch_struct, seq_id), offsetof(batch_struct, logits), sizeof(candidate_array),
        offsetof(candidate_array, data), offsetof(candidate_array, size), offsetof(candidate_array, selected),
        offsetof(candidate_array, sorted), sizeof(candidate), offsetof(candidate, id), offsetof(candidate, logit),
        offsetof(candidate, p));
    if (module == NULL || layout == NULL || PyModule_AddObjectRef(module, "LAYOUT", layout) < 0)
        Py_CLEAR(module);
    Py_XDECREF(layout);
    return module;
}

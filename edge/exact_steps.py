"""How many tokens llama.cpp computes in one step, on processors, as it computes each of them alone, bit for bit.

Beyond, a product is rounded otherwise, and the likeliest token can be another one. Found by computing each type in
steps of many sizes on x86-64 with AVX-512, repacked and not; the reasons, and those for other processors, are in
ggml/src/ggml-cpu.
"""

from __future__ import annotations

import platform

from edge.gguf_file import GGUFFile

_FROM_TWO_ON = frozenset({"F32", "F16", "BF16"})
"""llamafile/sgemm.cpp multiplies blocks of columns."""
_IN_FOURS = frozenset({"Q2_K", "Q4_K", "MXFP4"})
"""Repacked: repack.cpp multiplies four columns at a time where there are four (forward_mul_mat)."""
_IN_FOURS_BUT_ON_X86 = frozenset({"Q5_K", "Q6_K"})
_FROM_TWO_ON_X86 = frozenset({"IQ4_NL"})
"""Not repacked: llamafile/sgemm.cpp again, which rounds Q4_0, Q5_0 and Q8_0 as a column alone is."""
_FROM_TWO_ON_BUT_ON_X86 = frozenset({"Q4_0", "Q8_0", "Q4_K", "Q6_K"})
"""Not repacked: llamafile/sgemm.cpp, or two columns at a time (ggml-cpu.c, `nrows`). Read there, not measured."""
_IN_PAIRS_BUT_ON_X86 = frozenset({"Q4_1"})
"""Never repacked, and likewise two columns at a time."""
_X86 = frozenset({"x86_64", "AMD64"})
_K_TYPES = frozenset({"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"})
_I_TYPES = frozenset({"IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"})
_FROM_EIGHT_ON = _K_TYPES | _I_TYPES
"""Not repacked: tiled/tiled.cpp takes eight columns and more (ggml_tiled_min_batch)."""
_NOT_MULTIPLIED = (
    "per_layer_token_embd.weight",
    "position_embd.weight",
    "token_types.weight",
    "conv.weight",
    "conv1d.weight",
)
"""Ends of the names of tensors of which rows are looked up, or which slide over the tokens one by one."""
_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"


def exact_step_tokens(file: GGUFFile, machine: str = "", *, repack_weights: bool = True) -> int | None:
    """The largest step whose logits are those of its tokens one by one; None if they always are.

    `file` is a model or an adapter, whose weights are never repacked; `machine` a processor as `platform.machine` names
    it, by default this one. Whether attention is rounded alike is a matter of the context:
    `edge.llama.context.Context.attends_alike`.
    """
    skipped = (*_NOT_MULTIPLIED, _EMBEDDINGS) if _OUTPUT in file.tensors else _NOT_MULTIPLIED
    tensors = file.tensors.items()
    types = {each.type.name for name, each in tensors if len(each.shape) > 1 and not name.endswith(skipped)}
    is_x86 = (machine or platform.machine()) in _X86
    from_two_on = _FROM_TWO_ON if is_x86 else _FROM_TWO_ON | _IN_PAIRS_BUT_ON_X86
    if not repack_weights:
        from_two_on |= _FROM_TWO_ON_X86 if is_x86 else _FROM_TWO_ON_BUT_ON_X86
    if types & from_two_on:
        return 1
    if repack_weights and types & (_IN_FOURS if is_x86 else _IN_FOURS | _IN_FOURS_BUT_ON_X86):
        return 3
    return 7 if types & _FROM_EIGHT_ON else None

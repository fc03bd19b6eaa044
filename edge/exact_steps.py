"""How many tokens llama.cpp computes in one step, on processors, as it computes each of them alone, bit for bit.

Beyond, a product is rounded otherwise, and the likeliest token can be another one. Found by computing each type in
steps of many sizes on x86-64 with AVX-512; the reasons, and those for other processors, are in ggml/src/ggml-cpu.
"""

from __future__ import annotations

import platform

from edge.gguf_file import GGUFFile

_FROM_TWO_ON = frozenset({"F32", "F16", "BF16"})
"""llamafile/sgemm.cpp multiplies blocks of columns."""
_IN_FOURS = frozenset({"Q2_K", "Q4_K", "MXFP4"})
"""repack.cpp multiplies four columns at a time where there are four (forward_mul_mat)."""
_IN_FOURS_BUT_ON_X86 = frozenset({"Q5_K", "Q6_K"})
_X86 = frozenset({"x86_64", "AMD64"})
_FROM_EIGHT_ON = frozenset({"Q3_K", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"})
"""tiled/tiled.cpp takes eight columns and more (ggml_tiled_min_batch)."""
_NOT_MULTIPLIED = (
    "per_layer_token_embd.weight",
    "position_embd.weight",
    "token_types.weight",
    "conv.weight",
    "conv1d.weight",
)
"""Ends of the names of tensors of which rows are looked up, or which slide over the tokens one by one."""
_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"


def exact_step_tokens(file: GGUFFile, machine: str = "") -> int | None:
    """The largest step whose logits are those of its tokens one by one; None if they always are.

    `file` is a model or an adapter, `machine` a processor as `platform.machine` names it, by default this one. Whether
    attention is rounded alike is a matter of the context: `edge.llama.context.Context.attends_alike`.
    """
    skipped = (*_NOT_MULTIPLIED, _EMBEDDINGS) if _OUTPUT in file.tensors else _NOT_MULTIPLIED
    tensors = file.tensors.items()
    types = {each.type.name for name, each in tensors if len(each.shape) > 1 and not name.endswith(skipped)}
    if types & _FROM_TWO_ON:
        return 1
    is_x86 = (machine or platform.machine()) in _X86
    if types & (_IN_FOURS if is_x86 else _IN_FOURS | _IN_FOURS_BUT_ON_X86):
        return 3
    return 7 if types & (_FROM_EIGHT_ON | _IN_FOURS_BUT_ON_X86) else None

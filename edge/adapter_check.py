"""Whether a GGUF adapter may be used with a model, before native code sees both.

llama.cpp refuses some mismatches and ends the process over others: each is an EdgeError here. A file that says which
weights it was made for is held to that; one of another tool is judged by its shapes.
Source: llama.cpp, src/llama-adapter.cpp (llama_adapter_lora_init_impl), src/llama-graph.cpp (build_lora_mm,
build_inp_embd).
"""

from __future__ import annotations

from typing import NoReturn

from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, TensorInfo
from edge.gguf_format import BASE_KEY, WEIGHTS_KEY, ValueType

ADAPTER_TYPES = ("F32", "F16", "BF16", "Q8_0")
EMBEDDINGS = "token_embd.weight"
OUTPUT = "output.weight"
_SIDES = (".lora_a", ".lora_b")
_KEY_TYPES = {
    "general.type": ValueType.STRING,
    "adapter.type": ValueType.STRING,
    "adapter.lora.alpha": ValueType.FLOAT32,
}
_CONVERT_AGAIN = "Convert it again for this model: edge convert ADAPTER --base MODEL"


def check_is_model(file: GGUFFile) -> None:
    """EdgeError for an adapter given as the model itself."""
    if file.metadata.get("general.type") == "adapter":
        raise EdgeError(
            f"{file.path} is an adapter, which changes a model and is none itself.",
            hint="Give its base as the model, and the adapter with --lora.",
        )


def check_adapter(adapter: GGUFFile, model: GGUFFile) -> None:
    """EdgeError when the adapter is none, belongs to other weights, or does not fit."""
    _check_keys(adapter)
    if adapter.architecture != model.architecture:
        raise EdgeError(
            f"{adapter.path} is an adapter for {adapter.architecture}; {model.path} is {model.architecture}.",
            hint="Use it with the model it was trained on.",
        )
    _check_weights(adapter, model)
    names = {name.removesuffix(side) for name in adapter.tensors for side in _SIDES if name.endswith(side)}
    for name in adapter.tensors:
        if not name.endswith(_SIDES):
            _refuse(adapter, f"has the tensor {name!r}, which is neither side of a LoRA: llama.cpp would leave it out")
    for name in sorted(names):
        _check_pair(adapter, model, name)


def _check_keys(adapter: GGUFFile) -> None:
    if adapter.metadata.get("general.type") != "adapter" or adapter.metadata.get("adapter.type") != "lora":
        raise EdgeError(
            f"{adapter.path} is no LoRA adapter: general.type is {adapter.metadata.get('general.type')!r},"
            f" adapter.type {adapter.metadata.get('adapter.type')!r}.",
            hint="A PEFT LoRA becomes one with: edge convert ADAPTER --base MODEL",
        )
    for entry in adapter.entries:
        expected = _KEY_TYPES.get(entry.key, entry.type)
        if entry.type is not expected:
            _refuse(adapter, f"has {entry.key} as {entry.type.name} instead of {expected.name}")
        if entry.key == "adapter.alora.invocation_tokens":
            _refuse(adapter, "is an activated LoRA, which acts behind certain tokens only: that is not supported")


def _check_weights(adapter: GGUFFile, model: GGUFFile) -> None:
    wanted, found = adapter.metadata.get(BASE_KEY), model.metadata.get(WEIGHTS_KEY)
    if wanted is not None and found is not None and wanted != found:
        raise EdgeError(
            f"{adapter.path} was made for other weights than those of {model.path}.",
            hint=f"Use it with {adapter.metadata.get('general.base_model.0.name', 'its own base')}; if it was trained"
            " on this model all the same, convert it again with --base naming this file.",
        )


def _check_pair(adapter: GGUFFile, model: GGUFFile, name: str) -> None:
    a, b = (adapter.tensors.get(f"{name}{side}") for side in _SIDES)
    weight = model.tensors.get(name)
    if a is None or b is None:
        _refuse(adapter, f"has only one side of a LoRA for {name}")
    if weight is None:
        _refuse(adapter, f"changes the tensor {name!r}, which {model.path} does not have")
    for tensor in (a, b):
        if tensor.type.name not in ADAPTER_TYPES:
            _refuse(adapter, f"stores {tensor.name} as {tensor.type.name}; usable are {', '.join(ADAPTER_TYPES)}")
    if name == EMBEDDINGS and OUTPUT not in model.tensors:
        _refuse(adapter, f"changes {name}, which {model.path} uses as output as well: llama.cpp would abort")
    if not _fits(name, a, b, weight):
        _refuse(
            adapter,
            f"has {a.name} {list(a.shape)} and {b.name} {list(b.shape)}, which do not make the shape"
            f" {list(weight.shape)} of {name} in {model.path}",
        )


def _fits(name: str, a: TensorInfo, b: TensorInfo, weight: TensorInfo) -> bool:
    """Shapes with the columns first: a [inputs, rank], b [rank, outputs], and the experts in a third dimension.

    For embeddings a is [rank, tokens] and b [rank, hidden].
    """
    if len({len(a.shape), len(b.shape), len(weight.shape)}) > 1 or len(weight.shape) < 2:
        return False
    if name == EMBEDDINGS:
        return (b.shape[1], a.shape[1]) == weight.shape and a.shape[0] == b.shape[0]
    matches = (a.shape[0], b.shape[1]) == weight.shape[:2] and a.shape[1] == b.shape[0]
    return matches and a.shape[2:] == b.shape[2:] == weight.shape[2:]


def _refuse(adapter: GGUFFile, what: str) -> NoReturn:
    raise EdgeError(f"{adapter.path} {what}.", hint=_CONVERT_AGAIN)

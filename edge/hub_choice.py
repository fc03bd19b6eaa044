"""Which files of a repository on the hub make the model that is wanted: a GGUF file, its parts, or a checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from edge.errors import EdgeError
from edge.gguf_split import parse_part_name

# The quantizations of a repository's GGUF files in the order in which they are taken when none is asked for
PREFERRED_QUANTIZATIONS = (
    "Q4_K_M", "Q8_0", "Q5_K_M", "Q6_K", "Q4_K_S", "Q5_K_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
    "Q3_K_M", "BF16", "F16", "F32",
)  # fmt: skip
CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_SHARD_NAME = re.compile(r"(?!consolidated)[^/]+-\d+-of-\d+\.safetensors")
_SPLIT_GGUF_NAME = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_QUANTIZATION_IN_NAME = re.compile(r"(?:^|[-._/])(I?Q\d\w*|TQ\d_\d|MXFP4\w*|B?F16|F32)(?=[-./])", re.IGNORECASE)
_LICENCE_NAME = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|USE_POLICY)([-_.][\w.-]*)?", re.IGNORECASE)
_NOT_A_MODEL = ("mmproj", "imatrix")  # parts of names of GGUF files that go beside a model


def choose_gguf(repository: str, names: Sequence[str], quantization: str | None) -> list[str]:
    """The GGUF file of that quantization, or of the first preferred one; its parts in order, if it is split.

    Empty when there is no such file.
    """
    by_quantization = gguf_by_quantization(names)
    if quantization is None:
        quantization = next((name for name in PREFERRED_QUANTIZATIONS if name in by_quantization), None)
        if quantization is None and len(by_quantization) == 1:
            quantization = next(iter(by_quantization))
    files = by_quantization.get(quantization or "", [])
    if not files:
        return []
    wanted = _parts(files[0])
    if others := [name for name in files if name not in wanted]:
        raise EdgeError(
            f"{repository} has several {quantization or 'GGUF'} files: {', '.join([files[0], *others])}.",
            hint="Download the one you want with `hf download`, and give its path.",
        )
    if missing := [name for name in wanted if name not in files]:
        raise EdgeError(
            f"{repository} has {files[0]}, but not {missing[0]}: a part of the model is missing.",
            hint="Choose another quantization, as in org/name:Q4_K_M.",
        )
    return wanted


def _parts(name: str) -> list[str]:
    """The names of all parts of the split model that a file belongs to; of any other file, its own."""
    folder, slash, file = name.rpartition("/")
    part = parse_part_name(file)
    return [f"{folder}{slash}{other}" for other in part.all()] if part else [name]


def gguf_by_quantization(names: Sequence[str]) -> Mapping[str, list[str]]:
    """The GGUF models among the files by the quantization in their names, in capitals; "" when a name tells none."""
    found = defaultdict(list)
    for name in sorted(names):
        if name.lower().endswith(".gguf") and not any(part in name.lower() for part in _NOT_A_MODEL):
            found[_label(name)].append(name)
    return dict(found)


def quantization_of(name: str) -> str:
    """What a GGUF file of a repository is called behind the colon: its quantization, or GGUF when its name has none."""
    return _label(name) or "GGUF"


def _label(name: str) -> str:
    labels = _QUANTIZATION_IN_NAME.findall(_SPLIT_GGUF_NAME.sub(".gguf", name))
    return labels[-1].upper() if labels else ""


def licence_names(names: Sequence[str]) -> list[str]:
    """The texts of a repository that go with its model wherever that goes."""
    return [name for name in names if _LICENCE_NAME.fullmatch(name)]


def checkpoint_names(names: Sequence[str]) -> list[str]:
    """The files to download for a conversion; empty when the repository has no safetensors checkpoint.

    Copies of the weights in another layout (`consolidated.safetensors`) and pickles are left where they are.
    """
    if "config.json" not in names:
        return []
    small = [name for name in names if name in CHECKPOINT_FILES]
    if SINGLE_FILE in names:
        return [*small, SINGLE_FILE]
    if INDEX_FILE in names:
        return [*small, INDEX_FILE, *(name for name in names if _SHARD_NAME.fullmatch(name))]
    return []

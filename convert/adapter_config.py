"""What an adapter_config.json says: which modules a LoRA changes, by which rank and scale.

Knows PEFT's rules, and refuses what is more than a product of two matrices added to a weight.
Source: peft, tuners/lora/config.py (LoraConfig), tuners/tuners_utils.py (check_target_module_exists),
utils/other.py (get_pattern_key).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from convert.config_values import flag, is_number, positive_integer, positive_number
from edge.errors import EdgeError

Number = TypeVar("Number", int, float)

CONFIG_FILE = "adapter_config.json"
ALL_LINEAR = "all-linear"
OUTPUT_MODULES = ("lm_head", "embed_tokens")  # which "all-linear" leaves out

# what a setting adds to a LoRA that neither GGUF nor a sum of weights can express
_UNSUPPORTED = {
    "use_dora": "DoRA scales each row by a learned magnitude",
    "use_qalora": "QALoRA pools the inputs before the adapter",
    "use_bdlora": "BD-LoRA has block-diagonal matrices",
    "lora_bias": "its matrices have biases of their own",
    "modules_to_save": "it replaces whole modules instead of adding to them",
    "trainable_token_indices": "it replaces single rows of the embeddings",
    "target_parameters": "it changes parameters that are not a module's weight",
    "layer_replication": "it repeats layers of its base",
    "alora_invocation_tokens": "an activated LoRA only acts behind certain tokens",
    "arrow_config": "it routes between several adapters",
    "kasa_config": "KaSA changes the base's weights",
    "monteclora_config": "it draws its weights at random",
}
# initializations that take a part out of the base's weights, to be learned anew by the adapter
_BASE_CHANGING = ("pissa", "olora", "corda", "lora_ga", "loftq")
_MERGE_WITH_PEFT = (
    "Merge it into its base with PEFT (`merge_and_unload()`, then `save_pretrained`) and convert the result."
)


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA's settings. Modules are named as in the base, without `.weight`."""

    base_name: str | None
    """What the adapter was trained on, in the words of its maker: a name on a hub or a path."""
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    target_modules: str | tuple[str, ...]
    """A regular expression, "all-linear", or ends of module names."""
    exclude_modules: str | tuple[str, ...]
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]

    def rank_of(self, module: str) -> int:
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of the product of a module's matrices."""
        rank = self.rank_of(module)
        return _by_pattern(self.alpha_pattern, module, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether the adapter must have matrices for a linear module or the embeddings."""
        if _is_named(self.exclude_modules, module):
            return False
        if self.target_modules == ALL_LINEAR:
            return module.rpartition(".")[2] not in OUTPUT_MODULES
        return _is_named(self.target_modules, module) and self._is_chosen_layer(module)

    def _is_chosen_layer(self, module: str) -> bool:
        if self.layers is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in self.layers_pattern] or [r".*?\.[^.]*\.(\d+)\."]
        match = next(filter(None, (re.match(pattern, module) for pattern in patterns)), None)
        return match is not None and int(match[1]) in self.layers


def read_adapter_config(directory: Path) -> AdapterConfig:
    """The settings of a PEFT adapter. EdgeError when it is none, or does more than a LoRA."""
    path = directory / CONFIG_FILE
    document = _read_json(path)
    _refuse_unsupported(path, document)
    try:
        config = _parse(document)
        _compile_patterns(config)
    except EdgeError as error:
        raise EdgeError(error.message.replace("config.json", str(path), 1), hint=error.hint) from error
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EdgeError(
            f"{path.parent} is no PEFT adapter: it has no {CONFIG_FILE}.", hint="Give the directory that holds it."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EdgeError(f"{path} cannot be read: {error}.", hint="Save or download the adapter again.") from error
    if not isinstance(document, dict):
        raise EdgeError(f"{path} holds no JSON object.", hint="Save or download the adapter again.")
    return document


def _refuse_unsupported(path: Path, document: Mapping[str, Any]) -> None:
    kind = document.get("peft_type")
    if str(kind).upper() != "LORA":
        raise EdgeError(f"{path} is of PEFT's type {kind!r}.", hint="Only LoRA adapters can be converted.")
    for name, reason in _UNSUPPORTED.items():
        if document.get(name):
            raise EdgeError(f"{path} sets {name} to {document[name]!r}: {reason}.", hint=_MERGE_WITH_PEFT)
    if (bias := document.get("bias", "none")) not in ("none", None):
        raise EdgeError(
            f"{path} sets bias to {bias!r}: it was trained together with biases of its base, which an adapter file"
            " cannot hold.",
            hint=_MERGE_WITH_PEFT,
        )
    start = document.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_BASE_CHANGING):
        raise EdgeError(
            f"{path} sets init_lora_weights to {start!r}: the adapter belongs to a base with changed weights.",
            hint="Save it with PEFT's `path_initial_model_for_weight_conversion`, which makes it an ordinary LoRA.",
        )


def _parse(document: Mapping[str, Any]) -> AdapterConfig:
    base_name = document.get("base_model_name_or_path")
    return AdapterConfig(
        base_name=base_name if isinstance(base_name, str) and base_name else None,
        rank=positive_integer(document, "r"),
        alpha=positive_number(document, "lora_alpha"),
        rank_pattern={key: positive_integer({key: value}, key) for key, value in _pattern(document, "rank_pattern")},
        alpha_pattern={key: positive_number({key: value}, key) for key, value in _pattern(document, "alpha_pattern")},
        use_rslora=flag(document, "use_rslora", default=False),
        target_modules=_modules(document, "target_modules"),
        exclude_modules=_modules(document, "exclude_modules"),
        layers=_layers(document),
        layers_pattern=_texts(document, "layers_pattern"),
    )


def _pattern(document: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise EdgeError(f"config.json gives {name} as {value!r}.", hint="An object of numbers is needed.")
    return list(value.items())


def _modules(document: Mapping[str, Any], name: str) -> str | tuple[str, ...]:
    value = document.get(name)
    if isinstance(value, str):
        return ALL_LINEAR if value.lower() == ALL_LINEAR else value
    return _texts(document, name)


def _texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name) or []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise EdgeError(f"config.json gives {name} as {value!r}.", hint="Text or a list of texts is needed.")
    return tuple(texts)


def _layers(document: Mapping[str, Any]) -> tuple[int, ...] | None:
    value = document.get("layers_to_transform")
    numbers = value if isinstance(value, list) else [value]
    if value is None or not numbers:
        return None
    layers = tuple(int(number) for number in numbers if is_number(number) and number == int(number))
    if len(layers) < len(numbers):
        raise EdgeError(f"config.json gives layers_to_transform as {value!r}.", hint="Layer numbers are needed.")
    return layers


def _compile_patterns(config: AdapterConfig) -> None:
    """EdgeError for a regular expression that is none, before it is needed."""
    whole = [entry for entry in (config.target_modules, config.exclude_modules) if isinstance(entry, str)]
    for pattern in (*whole, *config.rank_pattern, *config.alpha_pattern, *config.layers_pattern):
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise EdgeError(
                f"config.json has a pattern that is no regular expression: {pattern!r} ({error}).",
                hint="Save or download the adapter again.",
            ) from error


def _is_named(modules: str | tuple[str, ...], module: str) -> bool:
    if isinstance(modules, str):
        return re.fullmatch(modules, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in modules)


def _by_pattern(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)

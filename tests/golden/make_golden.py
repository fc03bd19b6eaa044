"""Computes the reference logits of every tiny checkpoint with transformers in float32 and writes them beside itself.

The only file of the project that needs torch and transformers. README.md beside it says how to run it.
It makes all of them, or those of the checkpoints that are named. With `--sensitivity` it writes nothing and prints how
far the logits move when a conversion gets one thing wrong.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from tests.golden.stored import GoldenSequence, write_golden
from tests.tiny import TINY, TinyCheckpoint, weights_sha256, write_tiny_checkpoint

SEQUENCE_TOKENS = (96, 64)  # both longer than the sliding window and the rope scaling's original context
KEPT_POSITIONS = (72, 56)  # of each sequence
LEAST_DIVERGENCE = 1e-4  # what a mistake must at least cause, to tell it from rounding (1e-6 at most)

Logits = npt.NDArray[np.float32]


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    names = [name for name in sys.argv[1:] if name != "--sensitivity"] or list(TINY)
    with tempfile.TemporaryDirectory() as directory:
        folders = {name: write_tiny_checkpoint(name, Path(directory)) for name in names}
        if "--sensitivity" in sys.argv[1:]:
            print_sensitivity(folders)
        else:
            for name, folder in folders.items():
                make_golden(TINY[name], folder)


def make_golden(checkpoint: TinyCheckpoint, folder: Path) -> None:
    model = load(folder)
    stored = []
    for tokens, kept in zip(sequences(checkpoint), KEPT_POSITIONS, strict=True):
        positions = np.linspace(0, len(tokens) - 1, kept).astype(np.int64)
        computed = logits(model, tokens)[positions, : checkpoint.vocabulary]
        stored.append(GoldenSequence(tokens.astype(np.int32), positions.astype(np.int32), computed))
    versions = [f"torch {torch.__version__}", f"transformers {transformers.__version__}"]
    path = write_golden(checkpoint.name, versions, weights_sha256(folder), stored)
    print(f"{path.name}: {path.stat().st_size} bytes")


def sequences(checkpoint: TinyCheckpoint) -> Iterator[npt.NDArray[np.int64]]:
    """Token ids drawn evenly from the vocabulary, the same for every checkpoint of a vocabulary size."""
    generator = np.random.default_rng(7)
    for count in SEQUENCE_TOKENS:
        yield generator.integers(0, checkpoint.vocabulary, count)


def load(folder: Path, **changes: Any) -> Any:
    """The model in float32, on the plainest code path; nothing but its parameters was ever rounded to BF16.

    `changes` are made to the language model's part of the configuration.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config.get_text_config(), name, value)
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model, loading = getattr(transformers, architecture).from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {kind: names for kind, names in loading.items() if names}
    assert not wrong, f"{folder.name} is not complete: {wrong}"
    return model.eval()


@torch.no_grad()
def logits(model: Any, tokens: npt.NDArray[np.int64]) -> Logits:
    """Logits [tokens, vocabulary] of a sequence."""
    result: Logits = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    return result


def mean_divergence(reference: Logits, other: Logits) -> float:
    """Mean Kullback-Leibler divergence from the reference, in nats."""
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), dim=-1) for x in (reference, other))
    return float((p.exp() * (p - q)).sum(dim=-1).mean())


def print_sensitivity(folders: dict[str, Path]) -> None:
    """A Markdown table of the mistakes, each with the checkpoint that is least sensitive to it."""
    least: dict[str, tuple[float, str]] = {}
    unnoticed: list[str] = []
    for name, folder in folders.items():
        tokens = next(iter(sequences(TINY[name])))
        reference = logits(load(folder), tokens)
        for mistake, model in mistakes(TINY[name], folder):
            divergence = mean_divergence(reference, logits(model, tokens))
            if divergence < LEAST_DIVERGENCE:
                unnoticed.append(f"{name}: {mistake} ({divergence:.1e})")
            least[mistake] = min(least.get(mistake, (math.inf, "")), (divergence, name))
    print("| mistake | mean KL divergence, at least | of |\n|---|---|---|")
    for mistake, (divergence, name) in least.items():
        print(f"| {mistake} | {divergence:.1e} | {name} |")
    if unnoticed:
        sys.exit("These would pass unnoticed:\n" + "\n".join(unnoticed))


def mistakes(checkpoint: TinyCheckpoint, folder: Path) -> Iterator[tuple[str, Any]]:
    """Models that each have one thing wrong."""
    model = load(folder)
    config = model.config.get_text_config()
    for name, rope in rope_mistakes(config.rope_parameters):
        yield name, load(folder, rope_parameters=rope)
    for name, changes in config_mistakes(config):
        yield name, load(folder, **changes)
    names = [name for name, _ in model.named_parameters() if not is_vision(name)]
    for weights, change in weight_mistakes(config.model_type):
        if any(name.endswith(weights) for name in names):
            yield (
                f"{weights} {change.__name__.replace('_', ' ')}",
                changed(load(folder), weights, change, checkpoint.head_dim),
            )


def config_mistakes(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes to a configuration, each with its name."""
    values, kind = config.to_dict(), config.model_type
    for name in ("rms_norm_eps", "norm_epsilon", "norm_eps", "layer_norm_eps"):
        if name in values:
            yield f"{name} 0.01", {name: 0.01}
    for name in (
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "logit_scale",
    ):
        if name in values:
            yield f"{name} of 1", {name: 1.0}
    if kind == "gemma2":
        yield "attention soft cap left out", {"attn_logit_softcapping": None}
        yield "final soft cap left out", {"final_logit_softcapping": None}
    if kind in ("gemma2", "gemma3_text"):
        yield "attention scaled by hidden / heads", {"query_pre_attn_scalar": 64}
    if slides(config):
        yield "sliding window one token longer", {"sliding_window": config.sliding_window + 1}
        if kind != "gemma4_text":  # where kinds of layers differ in width
            yield "sliding window on the wrong layers", {"layer_types": config.layer_types[::-1]}
    if kind == "smollm3":
        yield "RoPE in every layer", {"no_rope_layers": [1] * config.num_hidden_layers}
    if "num_experts_per_tok" in values:
        yield "one expert more", {"num_experts_per_tok": config.num_experts_per_tok + 1}
    if kind == "qwen3_moe":
        yield "weights of experts not normalized", {"norm_topk_prob": False}


def slides(config: Any) -> bool:
    """Whether some layer has a sliding window that a sequence is longer than."""
    kinds = getattr(config, "layer_types", None) or ()
    return "sliding_attention" in kinds and config.sliding_window < min(SEQUENCE_TOKENS)


def rope_mistakes(parameters: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Wrong rope_parameters, each with its name; in one kind of layers where there are several."""
    if "rope_theta" not in parameters:
        for kind, rope in parameters.items():
            for name, wrong in rope_mistakes(rope):
                yield f"{name} in {kind.replace('_', ' ')}", {**parameters, kind: wrong}
        return
    theta, kind = parameters["rope_theta"], parameters["rope_type"]
    yield "RoPE base 5% off", {**parameters, "rope_theta": theta * 1.05}
    if kind != "default":
        kept = ("rope_theta", "partial_rotary_factor", "llama_4_scaling_beta", "original_max_position_embeddings")
        plain = {name: value for name, value in parameters.items() if name in kept}
        yield f"{kind} RoPE scaling left out", {**plain, "rope_type": "default"}
    if kind in ("yarn", "longrope"):
        yield f"{kind} attention factor of 1.1", {**parameters, "attention_factor": 1.1}
    if kind == "longrope":
        swapped = {"short_factor": parameters["long_factor"], "long_factor": parameters["short_factor"]}
        yield "longrope factors exchanged", {**parameters, **swapped}
    if parameters.get("partial_rotary_factor", 1.0) != 1.0 and kind == "default":
        yield "all of each head turned", {**parameters, "partial_rotary_factor": 1.0}
    if "llama_4_scaling_beta" in parameters:
        yield "llama 4 attention scaling left out", {**parameters, "llama_4_scaling_beta": 0.0}


Change = Callable[[torch.Tensor, int], torch.Tensor]


def weight_mistakes(kind: str) -> Iterator[tuple[str, Change]]:
    """Changes to the tensors of some endings, of which a model may have none."""
    for name in ("q", "k", "qkv"):
        yield f"{name}_proj.weight", permuted
    norms = ("input_layernorm", "post_feedforward_layernorm", "post_mlp_layernorm", "post_self_attn_layernorm")
    for name in (*norms, "q_norm", "k_norm", "operator_norm", "q_layernorm", "k_layernorm"):
        yield f"{name}.weight", neutral
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj", *norms[:1], ".norm"):
        yield f"{name}.bias", neutral
    if kind.startswith("gemma") and kind != "gemma4_text":
        yield "input_layernorm.weight", plus_one
    if kind == "gemma4_text":
        yield "layer_scalar", neutral
        yield "per_layer_projection_norm.weight", neutral
        yield "post_per_layer_input_norm.weight", neutral
    if kind in ("mixtral", "qwen3_moe"):
        yield "gate.weight", reversed_rows
    if kind == "lfm2":
        for name in ("conv.conv", "conv.in_proj"):
            yield f"{name}.weight", reversed_rows
    if kind == "qwen3_5_text":
        for name in ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "conv1d"):
            yield f"{name}.weight", reversed_rows
        yield "A_log", neutral
        yield "dt_bias", neutral


def permuted(weights: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of each head interleaved, as for the other RoPE layout."""
    heads = weights.reshape(-1, 2, head_dim // 2, weights.shape[-1])
    return heads.transpose(1, 2).reshape(weights.shape)


def reversed_rows(weights: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Another expert in the place of each."""
    return weights.flip(0)


def plus_one(weights: torch.Tensor, head_dim: int) -> torch.Tensor:
    return weights + 1


def neutral(weights: torch.Tensor, head_dim: int) -> torch.Tensor:
    """All the same: the mean of norm weights, rounded, and no bias."""
    return torch.full_like(weights, float(weights.mean().round()))


def is_vision(name: str) -> bool:
    return "vision_tower" in name or "visual" in name


@torch.no_grad()
def changed(model: Any, suffix: str, change: Change, head_dim: int) -> Any:
    for name, parameter in model.named_parameters():
        if name.endswith(suffix) and not is_vision(name):
            parameter.copy_(change(parameter, head_dim))
    return model


if __name__ == "__main__":
    main()

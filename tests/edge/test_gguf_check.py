from __future__ import annotations

import pytest

from edge.gguf_array import FixedArray, StringArray
from edge.gguf_check import why_llama_cpp_would_abort
from edge.gguf_format import ValueType
from tests.edge.gguf_bytes import array


def strings(*words: bytes) -> StringArray:
    raw = array(ValueType.STRING, words)[16:]
    starts = [8 * place + sum(map(len, words[:place])) for place in range(len(words))]
    return StringArray(raw, starts)


def numbers(*values: int) -> FixedArray:
    return FixedArray(ValueType.UINT32, array(ValueType.UINT32, values)[16:])


BYTES = [b"<0x%02X>" % byte for byte in range(256)]


def reason(**keys: object) -> str:
    """The judgement of a llama file with these keys; `__` stands for a dot, a leading `_` for the architecture."""
    named = {("llama." + key[1:] if key[0] == "_" else key).replace("__", "."): value for key, value in keys.items()}
    return why_llama_cpp_would_abort({"general.architecture": "llama", **named})


def tokenizer(tokens: StringArray, **keys: object) -> str:
    named = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return why_llama_cpp_would_abort({"general.architecture": "llama", "tokenizer.ggml.tokens": tokens, **named})


def test_usual_metadata_gives_no_reason() -> None:
    assert reason(_block_count=26, _rope__scaling__type="yarn", _expert_count=8, _expert_used_count=2) == ""
    assert tokenizer(strings(b"a", b"b"), model="gpt2", bos_token_id=1, add_bos_token=True) == ""
    assert tokenizer(strings(b"<s>", *BYTES), model="llama") == ""


@pytest.mark.parametrize("layers", [0, -1, 513])
def test_layer_count_outside_the_bounds_is_a_reason(layers: int) -> None:
    assert reason(_block_count=layers) == f"claims {layers} layers instead of 1 to 512"


def test_more_layers_ahead_than_layers_is_a_reason() -> None:
    assert reason(_block_count=4, _nextn_predict_layers=5) == (
        "claims 5 layers for predicting ahead, but only 4 layers"
    )


def test_unknown_rope_scaling_is_a_reason() -> None:
    assert reason(_rope__scaling__type="llama3") == (
        "has the RoPE scaling type 'llama3'; known are none, linear, yarn, longrope"
    )


@pytest.mark.parametrize("epsilon", [-1e-5, float("nan")])
@pytest.mark.parametrize("name", ["_attention__layer_norm_epsilon", "_attention__layer_norm_rms_epsilon"])
def test_negative_epsilon_is_a_reason(name: str, epsilon: float) -> None:
    assert reason(**{name: epsilon}) == f"has the normalization epsilon {epsilon}, which must not be negative"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"_expert_count": 2000, "_expert_used_count": 2}, "claims 2000 experts, more than 1024"),
        ({"_expert_count": 8}, "uses 0 of 8 experts for a token"),
        ({"_expert_used_count": 2}, "uses 2 of 0 experts for a token"),
        ({"_expert_count": 8, "_expert_used_count": numbers(2, 9)}, "uses 9 of 8 experts for a token"),
        ({"_expert_count": 8, "_expert_used_count": 2, "_expert_group_count": 8}, "puts 8 experts into 8 groups"),
        (
            {"_expert_count": 8, "_expert_used_count": 2, "_expert_group_count": 3, "_expert_group_used_count": 1},
            "uses 1 of 3 groups of 8 experts",
        ),
        (
            {"_expert_count": 8, "_expert_used_count": 2, "_expert_group_count": 4, "_expert_group_used_count": 4},
            "uses 4 of 4 groups of 8 experts",
        ),
    ],
)
def test_impossible_experts_are_a_reason(keys: dict[str, object], expected: str) -> None:
    assert reason(**keys) == expected


def test_repeated_token_is_a_reason() -> None:
    assert tokenizer(strings(b"a", b"b", b"a")) == "has a vocabulary of 3 tokens of which only 2 differ"


def test_sentencepiece_vocabulary_without_every_byte_is_a_reason() -> None:
    assert tokenizer(strings(*BYTES[:0x41], *BYTES[0x43:]), model="llama") == (
        "has a vocabulary without a token for 2 of the 256 bytes, such as 0x41"
    )
    assert tokenizer(strings(*BYTES[:0x41], *BYTES[0x42:], b"A"), model="llama") == ""


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_added_token_outside_the_vocabulary_is_a_reason(name: str) -> None:
    keys = {f"add_{name}_token": True, f"{name}_token_id": 2}
    assert tokenizer(strings(b"a", b"b"), **keys) == (
        f"adds the {name.upper()} token 2 to prompts, but its vocabulary has 2 tokens"
    )
    assert tokenizer(strings(b"a", b"b"), **{**keys, f"add_{name}_token": False}) == ""

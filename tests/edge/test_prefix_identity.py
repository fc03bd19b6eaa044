"""What tells models apart whose saved states must not be mixed up, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge.gguf_file import read_gguf
from edge.gguf_format import ValueType
from edge.prefix_identity import PrefixIdentity, identity_of, model_digest, template_digest
from edge.settings import AdapterSettings, ModelSettings
from tests.edge.gguf_bytes import F16, F32, Document, array, scalar, string, tensor

MODEL = Document(
    entries=[
        ("general.name", string("A model")),
        ("tokenizer.chat_template", string("{{ messages }}")),
        ("tokenizer.ggml.tokens", array(ValueType.STRING, ["a", "b"])),
        ("tokenizer.ggml.scores", array(ValueType.FLOAT32, [0.5, 0.25])),
        ("llama.rope.freq_base", scalar(ValueType.FLOAT32, 10000.0)),
    ],
    tensors=[tensor("a", [16, 64], F32, 0)],
    weights=bytes(4096),
)


def digest(folder: Path, document: Document, name: str = "model.gguf") -> str:
    path = folder / name
    path.write_bytes(document.to_bytes())
    return model_digest(read_gguf(path))


def with_entry(key: str, value: bytes) -> Document:
    entries = [(known, value if known == key else old) for known, old in MODEL.entries]
    assert any(known == key for known, _ in entries)
    return replace(MODEL, entries=entries)


def test_name_description_and_template_make_no_other_model(tmp_path: Path) -> None:
    expected = digest(tmp_path, MODEL)
    assert digest(tmp_path, MODEL, "renamed.gguf") == expected
    assert digest(tmp_path, with_entry("general.name", string("Another name"))) == expected
    assert digest(tmp_path, with_entry("tokenizer.chat_template", string("{{ messages | length }}"))) == expected


def test_vocabulary_hyperparameters_and_weights_make_another_model(tmp_path: Path) -> None:
    others = [
        with_entry("tokenizer.ggml.tokens", array(ValueType.STRING, ["a", "c"])),
        with_entry("tokenizer.ggml.scores", array(ValueType.FLOAT32, [0.5, 0.5])),
        with_entry("llama.rope.freq_base", scalar(ValueType.FLOAT32, 20000.0)),
        replace(MODEL, architecture="gemma2"),
        replace(MODEL, tensors=[tensor("b", [16, 64], F32, 0)]),
        replace(MODEL, tensors=[tensor("a", [64, 16], F32, 0)]),
        replace(MODEL, tensors=[tensor("a", [16, 128], F16, 0)]),
        replace(MODEL, weights=bytes(2000) + b"x" + bytes(2095)),
    ]
    digests = {digest(tmp_path, document) for document in [MODEL, *others]}
    assert len(digests) == 1 + len(others)


def test_template_is_known_by_its_text(tmp_path: Path) -> None:
    first = template_digest({"tokenizer.chat_template": "{{ messages }}"})
    assert template_digest({"tokenizer.chat_template": "{{ messages }}", "general.name": "x"}) == first
    assert template_digest({"tokenizer.chat_template": "other"}) != first
    assert template_digest({}) != first


def test_identity_has_adapters_with_their_scales_and_the_kind_of_cache(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(MODEL.to_bytes())
    adapter = tmp_path / "pirate.gguf"
    adapter.write_bytes(Document(tensors=[tensor("a.lora_a", [16, 4], F32, 0)], weights=bytes(256)).to_bytes())
    file = read_gguf(tmp_path / "model.gguf")
    plain = identity_of(file, ModelSettings())
    half, whole = (
        identity_of(file, ModelSettings(adapters=(AdapterSettings(adapter, scale),))) for scale in (0.5, 1.0)
    )
    quantized = identity_of(file, ModelSettings(key_type="Q8_0", flash_attention="on"))
    assert plain.model.startswith("model.gguf ")
    assert "with no adapter, not with the adapter pirate.gguf × 0.5" in plain.why_different(half)
    assert "the adapter pirate.gguf × 1, not with the adapter pirate.gguf × 0.5" in whole.why_different(half)
    assert "keys Q8_0, values F16, flash attention on" in quantized.why_different(plain)
    assert identity_of(file, ModelSettings(context_tokens=64, threads=3, parallel=2)).why_different(plain) == ""
    as_in_file = identity_of(file, ModelSettings(repack_weights=False))
    assert as_in_file.why_different(plain) == "was made with weights as they are in the file, not repacked"
    assert PrefixIdentity.from_json(half.to_json()) == half
    assert PrefixIdentity.from_json(as_in_file.to_json()) == as_in_file


def test_identity_that_does_not_speak_of_repacked_weights_is_of_a_time_when_all_were() -> None:
    document = PrefixIdentity("model 0", "", "keys F16", "1 (a)").to_json()
    del document["weights"]
    assert PrefixIdentity.from_json(document) == PrefixIdentity("model 0", "", "keys F16", "1 (a)", "repacked")
    assert PrefixIdentity.from_json({**document, "weights": 1}) is None

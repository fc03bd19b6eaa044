"""A model gets its name when it is proven; what fails is set aside with the record of its proof."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from convert import write
from convert.pipeline import plan_checkpoint, prove_file
from convert.plan import ConversionOptions
from convert.proof_record import record_path
from convert.proven import ProvenModel, raise_if_rejected, write_proven, write_unproven
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.gguf_format import TensorType
from tests.convert.conftest import TinyFolder

SPLIT = ConversionOptions(max_part_bytes=4_000_000)
KEYS = ("tensors", "tokens", "template", "forward")


def converted(
    source: Path, quantizations: list[str], out: Path, options: ConversionOptions | None = None
) -> list[ProvenModel]:
    plan = plan_checkpoint(source, quantizations, out, options=options or ConversionOptions(), force=True)
    return write_proven(plan, threads=1)


def claims(path: Path) -> dict[str, Any]:
    """What a file says of its own proof."""
    metadata = read_gguf(path).metadata
    return {name: metadata[f"general.proof.{name}"] for name in KEYS}


@pytest.fixture
def spoiled_q8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the encoder of Q8_0 write scales that are too large."""
    encode = write.encode_rows

    def spoil(rows: Any, kind: TensorType, out: Any, *others: Any) -> None:
        encode(rows * 2 if kind.name == "Q8_0" else rows, kind, out, *others)

    monkeypatch.setattr(write, "encode_rows", spoil)


def test_proven_file_has_its_name_a_record_and_says_so(tiny: TinyFolder, tmp_path: Path) -> None:
    (model,) = converted(tiny("llama3"), ["Q4_K_M"], tmp_path / "model.gguf")
    assert model.is_accepted
    assert model.path == tmp_path / "model.gguf"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "model.proof.json"]
    assert claims(model.path) == dict.fromkeys(KEYS, True)
    record = json.loads((tmp_path / "model.proof.json").read_text(encoding="utf-8"))
    assert (record["format"], record["model"], record["result"]) == (1, "model.gguf", "passed")
    content = model.path.read_bytes()
    assert record["files"] == [
        {"name": "model.gguf", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    ]
    assert record["versions"].keys() == {"edge-llm", "llama-cpp-python"}
    assert [(check["check"], check["outcome"]) for check in record["checks"]] == [(name, "passed") for name in KEYS]
    assert len(record["checks"][0]["figures"]["errors"]) == len(read_gguf(model.path).tensors)
    raise_if_rejected([model])


def test_claims_of_a_file_are_all_that_its_proof_changes(tiny: TinyFolder, tmp_path: Path) -> None:
    (proven,) = converted(tiny("llama3"), ["F16"], tmp_path / "proven.gguf")
    plan = plan_checkpoint(tiny("llama3"), ["F16"], tmp_path / "plain.gguf")
    (plain,) = write_unproven(plan, threads=1, progress=None)
    assert claims(plain) == dict.fromkeys(KEYS, False)
    changed = [(a, b) for a, b in zip(plain.read_bytes(), proven.path.read_bytes(), strict=True) if a != b]
    assert changed == [(0, 1)] * len(KEYS)


@pytest.mark.usefixtures("spoiled_q8")
def test_file_that_fails_is_rejected_alone(tiny: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "llama3-Q8_0.gguf").write_bytes(b"of an earlier conversion")
    good, bad = converted(tiny("llama3"), ["F16", "Q8_0"], tmp_path)
    assert (good.is_accepted, bad.is_accepted) == (True, False)
    assert bad.path == tmp_path / "llama3-Q8_0.gguf.rejected"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "llama3-F16.gguf",
        "llama3-F16.proof.json",
        "llama3-Q8_0.gguf",
        "llama3-Q8_0.gguf.rejected",
        "llama3-Q8_0.rejected.proof.json",
    ]
    assert (tmp_path / "llama3-Q8_0.gguf").read_bytes() == b"of an earlier conversion"
    assert claims(bad.path) == {"tensors": False, "tokens": True, "template": True, "forward": True}
    record = json.loads((tmp_path / "llama3-Q8_0.rejected.proof.json").read_text(encoding="utf-8"))
    assert (record["result"], record["checks"][0]["outcome"]) == ("failed", "failed")


@pytest.mark.usefixtures("spoiled_q8")
def test_rejection_is_an_error_that_says_what_failed_and_where_the_file_is(tiny: TinyFolder, tmp_path: Path) -> None:
    models = converted(tiny("llama3"), ["F16", "Q8_0"], tmp_path)
    with pytest.raises(EdgeError) as caught:
        raise_if_rejected(models)
    assert caught.value.message.startswith("llama3-Q8_0.gguf failed its proof (tensors): ")
    assert " (Q8_0) is off by 1 of its size; 0.025 is the limit." in caught.value.message
    assert caught.value.hint == (
        f"It is kept as {models[1].path}. The file was not made from this checkpoint or is damaged: convert it again."
    )
    with pytest.raises(EdgeError) as caught:
        raise_if_rejected([models[1], models[1]])
    assert caught.value.message.endswith(" Rejected as well: llama3-Q8_0.gguf.")


@pytest.mark.usefixtures("spoiled_q8")
def test_rejected_file_of_an_earlier_conversion_is_replaced(tiny: TinyFolder, tmp_path: Path) -> None:
    for _ in range(2):
        (bad,) = converted(tiny("llama3"), ["Q8_0"], tmp_path / "model.gguf")
        assert bad.path.is_file()
    (bad,) = converted(tiny("llama3"), ["Q8_0"], tmp_path / "model.gguf", SPLIT)
    assert bad.path.is_dir()
    (bad,) = converted(tiny("llama3"), ["Q8_0"], tmp_path / "model.gguf")
    assert bad.path.is_file()
    assert not list(tmp_path.glob("*.part"))


def test_parts_of_a_split_model_get_their_names_together(tiny: TinyFolder, tmp_path: Path) -> None:
    (model,) = converted(tiny("llama3"), ["F16"], tmp_path / "model.gguf", SPLIT)
    parts = [f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert {path.name for path in tmp_path.iterdir()} == {*parts, "model-00001-of-00003.proof.json"}
    assert model.path == tmp_path / parts[0]
    assert claims(model.path) == dict.fromkeys(KEYS, True)
    record = json.loads((tmp_path / "model-00001-of-00003.proof.json").read_text(encoding="utf-8"))
    assert [file["name"] for file in record["files"]] == parts
    assert not prove_file(tmp_path / parts[2], tiny("llama3"), threads=1).failed


@pytest.mark.usefixtures("spoiled_q8")
def test_rejected_parts_stay_in_a_folder(tiny: TinyFolder, tmp_path: Path) -> None:
    options = ConversionOptions(max_part_bytes=3_000_000)
    (model,) = converted(tiny("llama3"), ["Q8_0"], tmp_path / "model.gguf", options)
    assert model.path == tmp_path / "model.gguf.rejected"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf.rejected", "model.rejected.proof.json"]
    assert sorted(path.name for path in model.path.iterdir()) == [
        "model-00001-of-00002.gguf", "model-00002-of-00002.gguf",
    ]  # fmt: skip


def test_record_of_what_was_replaced_goes_when_nothing_is_proven(tiny: TinyFolder, tmp_path: Path) -> None:
    converted(tiny("llama3"), ["F16"], tmp_path / "model.gguf")
    plan = plan_checkpoint(tiny("llama3"), ["F16"], tmp_path / "model.gguf", force=True)
    write_unproven(plan, threads=1, progress=None)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_interrupt_during_the_proof_leaves_nothing(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convert.proven.prove", interrupt)
    for options in (ConversionOptions(), SPLIT):
        with pytest.raises(KeyboardInterrupt):
            converted(tiny("llama3"), ["F16"], tmp_path / "model.gguf", options)
        assert list(tmp_path.iterdir()) == []


def test_record_lies_beside_its_model() -> None:
    assert record_path(Path("a/model.gguf")) == Path("a/model.proof.json")
    assert record_path(Path("a/model.gguf.rejected")) == Path("a/model.rejected.proof.json")

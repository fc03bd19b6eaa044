"""The proof of a file: sound ones pass every check, and each kind of wrong file fails the check that is for it."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import proof as proof_module
from convert.pipeline import prove_file, write_checkpoint
from convert.plan import ConversionPlan, open_source, plan_conversion
from convert.proof import Check, Proof, prove
from convert.trial import TrialTimeoutError
from convert.vocabulary import Limitation
from edge.devices import Ram
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from tests.convert.conftest import TinyFolder
from tests.convert.edited import edited_json
from tests.golden.stored import read_golden

CHECKS = ["tensors", "tokens", "template", "forward"]


def check_of(proof: Proof, name: str) -> Check:
    return next(check for check in proof.checks if check.name == name)


def plan_of(source: Path) -> ConversionPlan:
    return plan_conversion(open_source(source), {})


@pytest.fixture
def q8(tiny: TinyFolder, tmp_path: Path) -> Path:
    (path,) = write_checkpoint(tiny("llama3"), ["Q8_0"], tmp_path / "model.gguf")
    return path


def patch(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("name", ["llama3", "gemma2", "smollm2"])
def test_sound_file_passes_every_check(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny(name), ["Q4_K_M"], tmp_path / "model.gguf")
    proof = prove_file(path, tiny(name), threads=1)
    assert {check.name: check.outcome for check in proof.checks} == dict.fromkeys(CHECKS, "passed")
    assert (proof.path, proof.file_bytes, proof.source) == (path, path.stat().st_size, tiny(name))
    assert proof.tensors is not None
    assert proof.tensors.errors[0].relative_error > 0
    assert check_of(proof, "tokens").figures["texts"] > 180
    proof.raise_if_failed()


def test_without_its_source_a_file_is_still_run(q8: Path) -> None:
    proof = prove_file(q8, threads=1)
    assert {check.name: check.outcome for check in proof.checks} == {
        "tensors": "passed", "tokens": "skipped", "template": "passed", "forward": "passed",
    }  # fmt: skip
    assert check_of(proof, "tokens").summary == "there is no checkpoint to compare with"


def test_each_check_is_made_whatever_came_of_the_others(q8: Path, tiny: TinyFolder) -> None:
    tensor = read_gguf(q8).tensors["output_norm.weight"]
    with q8.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.full(tensor.n_elements, np.nan, np.float32).tobytes())
    proof = prove_file(q8, tiny("llama3"), threads=1)
    assert {check.name: check.outcome for check in proof.checks} == {
        "tensors": "failed", "tokens": "passed", "template": "passed", "forward": "failed",
    }  # fmt: skip
    with pytest.raises(EdgeError) as caught:
        proof.raise_if_failed()
    assert caught.value.message == (
        "The tensor 'output_norm.weight' holds NaN or infinity at or after row 0. (failed as well: forward)"
    )
    assert caught.value.hint == "The file is damaged: convert or download it again."


def test_other_pre_tokenizer_fails_the_tokens(q8: Path, tiny: TinyFolder) -> None:
    patch(q8, b"llama-bpe", b"starcoder")
    check = check_of(prove_file(q8, tiny("llama3"), threads=1), "tokens")
    assert check.outcome == "failed"
    assert check.summary.startswith("llama.cpp's token ids differ from the tokenizer's in ")
    assert " texts: 'plain', 'newlines', 'digits' and " in check.summary
    assert re.search(
        r"; 'The bees.*…' continues with \[\d+, .*\] instead of \[\d+, .*\] after \d+ ids\.$", check.summary
    )
    assert check.hint == "The model would read another text than it was trained on: report this tokenizer."


def test_difference_that_the_plan_states_passes_and_is_told(q8: Path, tiny: TinyFolder) -> None:
    patch(q8, b"llama-bpe", b"starcoder")
    stated = Limitation("llama.cpp takes digits one by one", re.compile(r"\d+"))
    plan = replace(plan_of(tiny("llama3")), tokenizer_limitations=(stated,))
    check = check_of(prove(q8, plan, threads=1), "tokens")
    assert check.outcome == "failed"  # contractions of capitals differ as well, which nobody has stated
    assert "'digits'" not in check.summary


def test_template_that_was_changed_fails(q8: Path, tiny: TinyFolder) -> None:
    template = str(read_gguf(q8).metadata["tokenizer.chat_template"]).encode()
    patch(q8, template, template.replace(b"user", b"User").replace(b"content", b"contend"))
    check = check_of(prove_file(q8, tiny("llama3"), threads=1), "template")
    assert check.outcome == "failed"
    assert check.summary.startswith("The file's chat template differs from the checkpoint's, first at character ")


def test_template_that_only_one_side_has_fails(q8: Path, tiny: TinyFolder, tmp_path: Path) -> None:
    without = edited_json(tiny("llama3"), tmp_path / "without", "tokenizer_config.json", chat_template=None)
    for name in ("chat_template.jinja", "chat_template.json"):
        (without / name).unlink(missing_ok=True)
    check = check_of(prove_file(q8, without, threads=1), "template")
    assert (check.outcome, check.summary) == ("failed", "The file has a chat template; the checkpoint has none.")
    (path,) = write_checkpoint(without, ["F32"], tmp_path / "plain.gguf")
    check = check_of(prove_file(path, tiny("llama3"), threads=1), "template")
    assert (check.outcome, check.summary) == ("failed", "The file has no chat template; the checkpoint has one.")
    assert check_of(prove_file(path, without, threads=1), "template").summary == "there is no chat template"


def test_shapes_that_a_template_does_not_take_are_named(tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("gemma2"), ["F32"], tmp_path / "model.gguf")
    assert check_of(prove_file(path, tiny("gemma2"), threads=1), "template").summary == (
        "writes as Jinja does 4 of 6 shapes of conversation; not system text, results of tools"
    )


def write_reference(name: str, folder: Path, **changes: Any) -> Path:
    sequence = read_golden(name).sequences[0]
    arrays = {"tokens": sequence.tokens, "positions": sequence.positions, "logits": sequence.logits, **changes}
    np.savez(folder / "reference.npz", **arrays)
    return folder / "reference.npz"


@pytest.mark.parametrize("quantization", ["F32", "Q8_0", "Q4_K_M", "Q2_K"])
def test_logits_of_the_reference_pass(quantization: str, tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("llama3"), [quantization], tmp_path / "model.gguf")
    reference = write_reference("llama3", tmp_path)
    check = check_of(prove_file(path, against_logits=reference, threads=1), "logits")
    assert check.outcome == "passed", check.summary
    assert check.figures["positions"] == len(read_golden("llama3").sequences[0].positions)
    assert check.figures["mean"] < check.figures["bound"] / 2


def test_logits_of_another_model_fail(q8: Path, tmp_path: Path) -> None:
    logits = read_golden("llama3").sequences[0].logits
    reference = write_reference("llama3", tmp_path, logits=logits[::-1])
    check = check_of(prove_file(q8, against_logits=reference, threads=1), "logits")
    assert check.outcome == "failed"
    assert check.summary.startswith(f"The logits are not those of {reference}: mean KL divergence ")
    assert check.summary.endswith(" is the limit with Q8_0.")
    assert check.hint == "The reference is of another model or text, or the file is wrong."


def test_reference_that_does_not_fit_fails(q8: Path, tmp_path: Path) -> None:
    reference = write_reference("llama3", tmp_path, logits=np.zeros((128, 9), np.float32), positions=np.zeros(128, int))
    check = check_of(prove_file(q8, against_logits=reference, threads=1), "logits")
    assert check.summary.startswith(f"{reference} has logits for 9 tokens; the model has ")


def with_memory(monkeypatch: pytest.MonkeyPatch, available_bytes: int) -> None:
    monkeypatch.setattr(proof_module, "read_ram", lambda: Ram(1 << 40, available_bytes, None))


def test_machine_without_memory_skips_the_forward_pass_and_says_so(q8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 100_000_000)
    check = check_of(prove_file(q8, threads=1), "forward")
    assert check.outcome == "skipped"
    assert check.summary == "100 MB of memory are free, too little to run a model (537 MB)"


def test_model_larger_than_memory_may_be_too_slow(q8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_ends(what: str, question: object, *, timeout_seconds: float) -> dict[str, Any]:
        raise TrialTimeoutError("It did not end.", hint="Wait.")

    monkeypatch.setattr(proof_module, "try_in_child", never_ends)
    assert check_of(prove_file(q8, threads=1), "forward").outcome == "failed"
    monkeypatch.setattr(proof_module, "_TRIAL_MEMORY_BYTES", 0)
    with_memory(monkeypatch, 1_000_000)
    check = check_of(prove_file(q8, threads=1), "forward")
    assert check.outcome == "skipped"
    assert check.summary == (
        "the file is larger than the free memory (1.00 MB), and the disk is too slow to run it from there within 120"
        " seconds"
    )


def test_file_that_is_no_gguf_is_refused_before_any_check(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK" + bytes(100))
    with pytest.raises(EdgeError, match="is no GGUF file"):
        prove_file(path)


def test_steps_are_shown_one_after_another(q8: Path, tiny: TinyFolder) -> None:
    shown: list[str] = []

    @contextlib.contextmanager
    def display(label: str) -> Any:
        shown.append(label)
        yield lambda progress: None
        shown.append("done")

    prove_file(q8, tiny("llama3"), threads=1, display=display)
    assert shown == ["Reading back model.gguf", "done", "Running model.gguf", "done"]

"""What convert and verify print: exact lines for people, one document for programs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from convert.encode import encoder_name
from convert.pipeline import plan_checkpoint, write_checkpoint
from convert.proof import Check, Proof
from convert.proof_record import proof_document
from convert.proven import ProvenModel
from convert.quantization_error import TensorError
from convert.recipes import RECIPES
from convert.report import plan_document, render_plan, render_proof, render_result, result_document
from convert.verify import TensorProof
from edge.cli import main
from tests.convert.conftest import TinyFolder

ERRORS = (
    TensorError("blk.0.attn_q.weight", "Q4_K", 0.0712),
    TensorError("output.weight", "Q6_K", 0.0179),
    TensorError("output_norm.weight", "F32", 0.0),
)

CHECKS = (
    Check("tensors", "passed", "76 tensors match their source"),
    Check("tokens", "failed", "llama.cpp's token ids differ", "Report it."),
    Check("template", "skipped", "there is no chat template"),
)

Command = Callable[..., tuple[int, str, str]]


def lines(renderable: RenderableType, width: int = 80) -> list[str]:
    """What a terminal of that width shows."""
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    printed: Any = console.file
    return [line.rstrip() for line in str(printed.getvalue()).splitlines()]


def proof_of(path: Path, errors: tuple[TensorError, ...] = ERRORS, checks: tuple[Check, ...] = CHECKS) -> Proof:
    return Proof(path, 1_234_567, checks, TensorProof(path, len(errors), 1_234_567, "llama", errors))


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process; gives its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edge", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    return run


def test_plan_shows_each_file_with_its_exact_size(tiny: TinyFolder) -> None:
    plan = plan_checkpoint(tiny("llama3"), ["F16", "Q4_K_M"], Path("out"))
    first, second = (f"{file.file_bytes:,}" for file in plan.files)
    assert lines(render_plan(plan)) == [
        "llama: 5,042,432 parameters in 76 tensors",
        "out/llama3-F16.gguf",
        f"  {first} bytes, 16.01 bits per weight: 58 F16, 18 F32",
        "out/llama3-Q4_K_M.gguf",
        f"  {second} bytes, 4.86 bits per weight: 49 Q4_K, 18 F32, 9 Q6_K",
    ]


def test_result_shows_the_proof_of_each_file(tiny: TinyFolder) -> None:
    plan = plan_checkpoint(tiny("llama3"), ["F16", "Q4_K_M"], Path("out"))
    first, second = (f"{file.file_bytes:,}" for file in plan.files)
    passed = proof_of(plan.files[1].path, checks=(CHECKS[0], CHECKS[2]))
    assert lines(render_result(plan, [ProvenModel(plan.files[1], passed)])) == [
        "out/llama3-F16.gguf",
        f"  {first} bytes, 16.01 bits per weight",
        "  not proven",
        "out/llama3-Q4_K_M.gguf",
        f"  {second} bytes, 4.86 bits per weight",
        "  ✓ tensors  76 tensors match their source",
        "  - template there is no chat template",
        f"quantized with {encoder_name()} instructions",
    ]


def test_result_says_when_ggml_quantized(tiny: TinyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.report.encoder_name", lambda: "ggml")
    plan = plan_checkpoint(tiny("qwen3"), ["Q8_0"], Path("out"))
    assert lines(render_result(plan, []))[-1] == (
        "quantized by ggml; edge doctor says how to make it several times faster"
    )
    assert result_document(plan, [])["encoder"] == "ggml"


def test_result_says_which_types_were_left_to_ggml(tiny: TinyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "convert.report.types_left_to_ggml", lambda kinds: [kind.name for kind in kinds if kind.is_quantized]
    )
    plan = plan_checkpoint(tiny("llama3"), ["Q4_K_M"], Path("out"))
    assert lines(render_result(plan, []))[-1] == f"quantized with {encoder_name()} instructions, Q4_K, Q6_K by ggml"
    assert result_document(plan, [])["types_left_to_ggml"] == ["Q4_K", "Q6_K"]


def test_rejected_model_is_shown_where_it_lies(tiny: TinyFolder) -> None:
    plan = plan_checkpoint(tiny("qwen3"), ["F16"], Path("out"))
    shown = lines(render_result(plan, [ProvenModel(plan.files[0], proof_of(plan.files[0].path))]))
    assert shown[0] == "out/qwen3-F16.gguf.rejected"
    assert shown[3] == "  ✗ tokens   llama.cpp's token ids differ"


def test_what_llama_cpp_does_differently_is_noted(tiny: TinyFolder) -> None:
    plan = replace(
        plan_checkpoint(tiny("qwen3"), ["F16"], Path("out")),
        limitations=("llama.cpp keeps the white space beside '<mask>', which the tokenizer takes away",),
    )
    for renderable in (render_plan(plan), render_result(plan, [])):
        assert lines(renderable, width=120)[-1] == (
            "note: llama.cpp keeps the white space beside '<mask>', which the tokenizer takes away."
        )
    assert plan_document(plan)["limitations"] == list(plan.limitations)


def test_proof_against_a_source_shows_the_worst_tensors() -> None:
    proof = proof_of(Path("model.gguf"), checks=CHECKS[:1])
    assert lines(render_proof(proof)) == [
        "model.gguf",
        "  1,234,567 bytes",
        "  ✓ tensors  76 tensors match their source",
        "",
        "Nearest to their bounds",
        "Tensor               Type     Error  Bound",
        "blk.0.attn_q.weight  Q4_K  7.12e-02    0.2",
        "output.weight        Q6_K  1.79e-02   0.06",
        "output_norm.weight   F32   0.00e+00      0",
    ]


def test_only_the_five_worst_tensors_are_shown() -> None:
    errors = tuple(TensorError(f"blk.{number}.attn_q.weight", "Q8_0", 0.005) for number in range(9))
    shown = lines(render_proof(proof_of(Path("model.gguf"), errors)))
    assert shown[-1].startswith("blk.4.attn_q.weight")


def test_long_path_is_folded_and_never_cut(tiny: TinyFolder) -> None:
    folder = "/".join(f"folder-number-{number}" for number in range(12))
    path = Path(folder) / "qwen3-Q8_0.gguf"
    plan = plan_checkpoint(tiny("qwen3"), ["Q8_0"], Path(folder))
    proof = proof_of(path)
    for renderable in (render_plan(plan), render_result(plan, []), render_proof(proof)):
        shown = lines(renderable)
        assert str(path) in "".join(shown)
        assert max(map(len, shown)) <= 80


def test_brackets_of_a_path_are_shown_and_control_characters_are_not_obeyed() -> None:
    proof = proof_of(Path("[red]old[/red]/\x1b[2Jmodel.gguf"))
    assert lines(render_proof(proof))[0] == "[red]old[/red]/\\x1b[2Jmodel.gguf"


def test_plan_as_a_document(tiny: TinyFolder) -> None:
    plan = plan_checkpoint(tiny("llama3"), ["Q4_K_M"], Path("out"))
    assert plan_document(plan) == {
        "family": "llama",
        "tensors": 76,
        "parameters": 5_042_432,
        "source_bytes": 10_084_864,
        "files": [
            {
                "path": "out/llama3-Q4_K_M.gguf",
                "parts": [{"path": "out/llama3-Q4_K_M.gguf", "bytes": plan.files[0].file_bytes}],
                "quantization": "Q4_K_M",
                "bytes": plan.files[0].file_bytes,
                "bits_per_weight": 4.857,
                "tensor_types": {"Q4_K": 49, "F32": 18, "Q6_K": 9},
            }
        ],
        "limitations": [],
    }
    assert result_document(plan, []) == {
        **plan_document(plan),
        "encoder": encoder_name(),
        "types_left_to_ggml": [],
        "proofs": [],
    }


def test_proof_as_a_document() -> None:
    document = proof_document(replace(proof_of(Path("model.gguf")), source=Path("checkpoint")))
    assert document == {
        "path": "model.gguf",
        "bytes": 1_234_567,
        "source": "checkpoint",
        "result": "failed",
        "checks": [
            {"check": "tensors", "outcome": "passed", "summary": "76 tensors match their source", "seconds": 0.0},
            {"check": "tokens", "outcome": "failed", "summary": "llama.cpp's token ids differ", "seconds": 0.0},
            {"check": "template", "outcome": "skipped", "summary": "there is no chat template", "seconds": 0.0},
        ],
    }
    assert json.loads(json.dumps(document)) == document


def test_command_prints_the_plan_and_writes_nothing(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    code, out, err = edge("convert", str(tiny("llama3")), "--quant", "Q4_K_M", "--out", str(tmp_path), "--plan")
    assert (code, err) == (0, "")
    title, path, size = out.splitlines()
    assert title == "llama: 5,042,432 parameters in 76 tensors"
    assert path == f"{tmp_path}/llama3-Q4_K_M.gguf"
    assert size.endswith(" bytes, 4.86 bits per weight: 49 Q4_K, 18 F32, 9 Q6_K")
    assert list(tmp_path.iterdir()) == []


def test_command_converts_and_proves_each_file(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    folder = tmp_path / ("a-very-long-name-" * 8) / "[1]"
    code, out, _ = edge("convert", str(tiny("qwen3")), "--quant", "f16, Q8_0", "--out", str(folder), "--threads", "2")
    assert code == 0
    *shown, encoder = out.splitlines()
    assert encoder == f"quantized with {encoder_name()} instructions"
    assert shown[0::6] == [f"{folder}/qwen3-F16.gguf", f"{folder}/qwen3-Q8_0.gguf"]  # whole, since this is no terminal
    assert shown[1] == f"  {(folder / 'qwen3-F16.gguf').stat().st_size:,} bytes, 16.02 bits per weight"
    assert [line.split(";")[0] for line in shown[2::6]] == ["  ✓ tensors  24 tensors match their source"] * 2
    assert [line.split()[:2] for line in shown[3:6]] == [["✓", "tokens"], ["✓", "template"], ["✓", "forward"]]


def test_command_can_leave_the_proof_out(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    code, out, _ = edge("convert", str(tiny("qwen3")), "--quant", "F16", "--out", str(tmp_path), "--no-verify")
    assert code == 0
    assert out.splitlines()[-1] == "  not proven"


def test_command_prints_one_document(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    _, out, _ = edge("convert", str(tiny("qwen3")), "--quant", "F16,Q8_0", "--out", str(tmp_path), "--json")
    document = json.loads(out)
    assert [file["bytes"] for file in document["files"]] == [
        Path(file["path"]).stat().st_size for file in document["files"]
    ]
    assert [proof["path"] for proof in document["proofs"]] == [file["path"] for file in document["files"]]
    _, out, _ = edge("verify", document["files"][1]["path"], "--against", str(tiny("qwen3")), "--json")
    again, proof = json.loads(out), document["proofs"][1]
    for checks in (again["checks"], proof["checks"]):
        for check in checks:
            del check["seconds"]
    assert again == proof


def test_command_verifies_a_file(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("qwen3"), ["Q8_0"], tmp_path)
    code, out, _ = edge("verify", str(path))
    assert code == 0
    shown = out.splitlines()
    assert shown[:3] == [
        str(path), f"  {path.stat().st_size:,} bytes", "  ✓ tensors  24 tensors, complete, all finite",
    ]  # fmt: skip
    assert shown[3] == "  - tokens   there is no checkpoint to compare with"
    assert shown[4] == "  ✓ template takes all 6 shapes of conversation"
    assert shown[5].startswith("  ✓ forward  16 tokens, logits from ")


def test_command_says_which_check_a_file_fails(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("qwen3"), ["Q8_0"], tmp_path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 2048)
        file.write(b"\xff" * 2048)
    code, out, err = edge("verify", str(path))
    assert code == 1
    assert "  ✗ tensors  The tensor " in out
    assert err.splitlines()[-2].startswith("error: The tensor ")
    assert "holds NaN or infinity" in err
    assert err.splitlines()[-1] == "hint:  The file is damaged: convert or download it again."


def test_command_splits_what_is_larger_than_asked(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    arguments = ("--quant", "F16", "--out", str(tmp_path / "m.gguf"), "--split-max-size", "3.5MB", "--no-verify")
    code, out, _ = edge("convert", str(tiny("llama3")), *arguments)
    assert code == 0
    parts = [tmp_path / f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert sorted(tmp_path.iterdir()) == parts
    size = sum(path.stat().st_size for path in parts)
    assert out.splitlines()[:2] == [str(parts[0]), f"  {size:,} bytes in 3 parts, 16.01 bits per weight"]
    code, out, _ = edge("inspect", str(parts[1]), "--json")
    assert (json.loads(out)["path"], json.loads(out)["file_bytes"]) == (str(parts[0]), size)
    code, out, _ = edge("verify", str(parts[2]), "--against", str(tiny("llama3")), "--json")
    assert (code, json.loads(out)["result"]) == (0, "passed")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["--split-max-size", "big"], "'big' is not a size.", "Write it with a unit, such as 2GB or 500M."),
        (
            ["--no-verify", "--against-logits", "x.npz"],
            "--no-verify leaves out what --against-logits asks for.",
            "Leave one of them out.",
        ),
        (["--quant", "Q9"], "The quantization 'Q9' is not known.", f"Known are: {', '.join(RECIPES)}."),
        (["--quant", ","], "No quantization was given.", f"Known are: {', '.join(RECIPES)}."),
        (["--threads", "0"], "0 threads cannot do any work.", "Give --threads a number from 1 on."),
    ],
)
def test_command_says_what_is_wrong_and_what_to_do(
    arguments: list[str], error: str, hint: str, edge: Command, tiny: TinyFolder, tmp_path: Path
) -> None:
    code, out, err = edge("convert", str(tiny("qwen3")), "--out", str(tmp_path), *arguments)
    assert (code, out) == (1, "")
    assert err.splitlines()[-2:] == [f"error: {error}", f"hint:  {hint}"]
    assert list(tmp_path.iterdir()) == []

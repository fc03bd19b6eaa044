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

from convert.pipeline import convert_checkpoint, plan_checkpoint
from convert.quantization_error import TensorError
from convert.report import plan_document, proof_document, render_plan, render_proof, render_result, result_document
from convert.verify import Proof, verify_against, verify_file
from edge.cli import main
from tests.convert.conftest import TinyFolder

ERRORS = (
    TensorError("blk.0.attn_q.weight", "Q4_K", 0.0712),
    TensorError("output.weight", "Q6_K", 0.0179),
    TensorError("output_norm.weight", "F32", 0.0),
)

Command = Callable[..., tuple[int, str, str]]


def lines(renderable: RenderableType, width: int = 80) -> list[str]:
    """What a terminal of that width shows."""
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    printed: Any = console.file
    return [line.rstrip() for line in str(printed.getvalue()).splitlines()]


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
    proof = Proof(plan.files[1].path, 76, plan.files[1].file_bytes, "llama", tiny("llama3"), ERRORS)
    assert lines(render_result(plan, [proof])) == [
        "out/llama3-F16.gguf",
        f"  {first} bytes, 16.01 bits per weight",
        "  not read back",
        "out/llama3-Q4_K_M.gguf",
        f"  {second} bytes, 4.86 bits per weight",
        "  76 tensors match their source; worst blk.0.attn_q.weight: 7.12% (Q4_K)",
    ]


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
    proof = Proof(Path("model.gguf"), 3, 1_234_567, "llama", Path("checkpoint"), ERRORS)
    assert lines(render_proof(proof)) == [
        "model.gguf",
        "  1,234,567 bytes",
        "  3 tensors match their source; worst blk.0.attn_q.weight: 7.12% (Q4_K)",
        "",
        "Nearest to their bounds",
        "Tensor               Type     Error  Bound",
        "blk.0.attn_q.weight  Q4_K  7.12e-02    0.2",
        "output.weight        Q6_K  1.79e-02   0.06",
        "output_norm.weight   F32   0.00e+00      0",
    ]


def test_exact_copy_is_called_one() -> None:
    proof = Proof(Path("model.gguf"), 75, 100, "llama", Path("checkpoint"), ERRORS[-1:])
    assert lines(render_proof(proof))[2] == "  75 tensors equal their source exactly"


def test_only_the_five_worst_tensors_are_shown() -> None:
    errors = tuple(TensorError(f"blk.{number}.attn_q.weight", "Q8_0", 0.005) for number in range(9))
    shown = lines(render_proof(Proof(Path("model.gguf"), 9, 100, "llama", Path("checkpoint"), errors)))
    assert shown[-1].startswith("blk.4.attn_q.weight")


@pytest.mark.parametrize(
    ("family", "summary"),
    [
        ("llama", "  12 tensors, complete, all finite"),
        (None, "  12 tensors, of an architecture without a completeness check, all finite"),
    ],
)
def test_proof_by_itself_says_what_was_checked(family: str | None, summary: str) -> None:
    assert lines(render_proof(Proof(Path("model.gguf"), 12, 100, family))) == ["model.gguf", "  100 bytes", summary]


def test_long_path_is_folded_and_never_cut(tiny: TinyFolder) -> None:
    folder = "/".join(f"folder-number-{number}" for number in range(12))
    path = Path(folder) / "qwen3-Q8_0.gguf"
    plan = plan_checkpoint(tiny("qwen3"), ["Q8_0"], Path(folder))
    proof = Proof(path, 2, 100, "qwen3", Path("checkpoint"), ERRORS)
    for renderable in (render_plan(plan), render_result(plan, []), render_proof(proof)):
        shown = lines(renderable)
        assert str(path) in "".join(shown)
        assert max(map(len, shown)) <= 80


def test_brackets_of_a_path_are_shown_and_control_characters_are_not_obeyed() -> None:
    proof = Proof(Path("[red]old[/red]/\x1b[2Jmodel.gguf"), 2, 100, "llama")
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
                "quantization": "Q4_K_M",
                "bytes": plan.files[0].file_bytes,
                "bits_per_weight": 4.857,
                "tensor_types": {"Q4_K": 49, "F32": 18, "Q6_K": 9},
            }
        ],
        "limitations": [],
    }
    assert result_document(plan, []) == {**plan_document(plan), "proofs": []}


def test_proof_as_a_document(tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = convert_checkpoint(tiny("qwen3"), ["BF16"], tmp_path)
    alone, against = proof_document(verify_file(path)), proof_document(verify_against(path, tiny("qwen3")))
    size = path.stat().st_size
    assert alone == {
        "path": str(path), "bytes": size, "tensors": 24, "family": "qwen3", "source": None, "errors": [],
    }  # fmt: skip
    assert against["source"] == str(tiny("qwen3"))
    assert len(against["errors"]) == 24
    assert {"tensor": "output_norm.weight", "type": "F32", "relative_error": 0.0, "bound": 0.0} in against["errors"]
    assert json.loads(json.dumps(against)) == against


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
    shown = out.splitlines()
    assert shown[0::3] == [f"{folder}/qwen3-F16.gguf", f"{folder}/qwen3-Q8_0.gguf"]  # whole, since this is no terminal
    assert shown[1] == f"  {(folder / 'qwen3-F16.gguf').stat().st_size:,} bytes, 16.02 bits per weight"
    assert [line.split(";")[0] for line in shown[2::3]] == ["  24 tensors match their source"] * 2


def test_command_can_leave_the_proof_out(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    code, out, _ = edge("convert", str(tiny("qwen3")), "--quant", "F16", "--out", str(tmp_path), "--no-verify")
    assert code == 0
    assert out.splitlines()[-1] == "  not read back"


def test_command_prints_one_document(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    _, out, _ = edge("convert", str(tiny("qwen3")), "--quant", "F16,Q8_0", "--out", str(tmp_path), "--json")
    document = json.loads(out)
    assert [file["bytes"] for file in document["files"]] == [
        Path(file["path"]).stat().st_size for file in document["files"]
    ]
    assert [proof["path"] for proof in document["proofs"]] == [file["path"] for file in document["files"]]
    _, out, _ = edge("verify", document["files"][1]["path"], "--against", str(tiny("qwen3")), "--json")
    assert json.loads(out) == document["proofs"][1]


def test_command_verifies_a_file(edge: Command, tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = convert_checkpoint(tiny("qwen3"), ["Q8_0"], tmp_path)
    code, out, _ = edge("verify", str(path))
    assert code == 0
    assert out.splitlines() == [
        str(path), f"  {path.stat().st_size:,} bytes", "  24 tensors, complete, all finite",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["--quant", "Q9"], "The quantization 'Q9' is not known.", "Known are: F32, F16, BF16, Q8_0, Q4_K_M."),
        (["--quant", ","], "No quantization was given.", "Known are: F32, F16, BF16, Q8_0, Q4_K_M."),
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

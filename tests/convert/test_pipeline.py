"""From a directory to files: where they go, and what stands in the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import convert
from convert.pipeline import convert_checkpoint, plan_checkpoint, write_checkpoint
from convert.pool import Progress
from convert.recipes import RECIPES
from edge.errors import EdgeError
from tests.convert.conftest import TinyFolder


def refusal(source: Path, quantizations: list[str], out: Path | None = None, *, force: bool = False) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        plan_checkpoint(source, quantizations, out, force=force)
    return caught.value


def planned_paths(source: Path, quantizations: list[str], out: Path | None = None) -> list[Path]:
    return [file.path for file in plan_checkpoint(source, quantizations, out).files]


def test_file_is_named_after_the_checkpoint_in_the_current_directory(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny("qwen3")
    monkeypatch.chdir(tmp_path)
    assert write_checkpoint(source, ["q8_0"]) == [Path("qwen3-Q8_0.gguf")]
    assert [path.name for path in tmp_path.iterdir()] == ["qwen3-Q8_0.gguf"]


def test_conversion_is_proven_and_its_record_kept(tiny: TinyFolder, tmp_path: Path) -> None:
    reports: list[Progress] = []
    (path,) = convert_checkpoint(tiny("qwen3"), ["Q8_0"], tmp_path, threads=1, progress=reports.append)
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "qwen3-Q8_0.proof.json"]
    assert reports[-1].done_bytes == reports[-1].total_bytes == path.stat().st_size  # of the last step, which runs it


def test_conversion_that_fails_its_proof_is_an_error(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.write.encode_rows", lambda rows, kind, out, *others: out.fill(0))
    with pytest.raises(EdgeError) as caught:
        convert_checkpoint(tiny("qwen3"), ["Q8_0"], tmp_path, threads=1)
    assert caught.value.message.startswith("qwen3-Q8_0.gguf failed its proof (tensors, forward): ")
    assert (tmp_path / "qwen3-Q8_0.gguf.rejected").is_file()


def test_out_with_the_suffix_is_a_file(tiny: TinyFolder, tmp_path: Path) -> None:
    for name in ("model.gguf", "MODEL.GGUF", "new/folder/model.gguf"):
        assert planned_paths(tiny("qwen3"), ["F16"], tmp_path / name) == [tmp_path / name]
    assert list(tmp_path.iterdir()) == []


def test_any_other_out_is_a_directory(tiny: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "odd.gguf").mkdir()
    for name in ("new", "odd.gguf", "."):
        expected = [tmp_path / name / f"qwen3-{quantization}.gguf" for quantization in ("F16", "Q4_K_M")]
        assert planned_paths(tiny("qwen3"), ["F16", "Q4_K_M"], tmp_path / name) == expected


def test_folders_on_the_way_are_made(tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("qwen3"), ["F16"], tmp_path / "a" / "b" / "model.gguf")
    assert path.is_file()


def test_quantization_asked_for_twice_is_made_once(tiny: TinyFolder, tmp_path: Path) -> None:
    paths = planned_paths(tiny("qwen3"), ["Q8_0", "q8_0", "F16", "Q8_0"], tmp_path)
    assert [path.name for path in paths] == ["qwen3-Q8_0.gguf", "qwen3-F16.gguf"]


def test_one_file_cannot_take_several_quantizations(tiny: TinyFolder, tmp_path: Path) -> None:
    error = refusal(tiny("qwen3"), ["F16", "Q8_0"], tmp_path / "model.gguf")
    assert error.message == f"{tmp_path / 'model.gguf'} is one file, but 2 quantizations were asked for."
    assert error.hint == "Give a directory with --out."


def test_no_quantization_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    error = refusal(tiny("qwen3"), [], tmp_path / "model.gguf")
    assert error.message == "No quantization was given."
    assert error.hint == f"Known are: {', '.join(RECIPES)}."


def test_unknown_quantization_lists_the_known_ones(tiny: TinyFolder) -> None:
    error = refusal(tiny("qwen3"), ["Q8_0", "Q3_K_XXL"])
    assert error.message == "The quantization 'Q3_K_XXL' is not known."
    assert error.hint == f"Known are: {', '.join(RECIPES)}."


def test_out_that_is_another_file_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    error = refusal(tiny("qwen3"), ["F16"], tmp_path / "notes.txt")
    assert error.message == f"{tmp_path / 'notes.txt'} is neither a directory nor a .gguf file."
    assert error.hint == "Name one of them with --out."


def test_existing_output_is_refused_and_not_touched(tiny: TinyFolder, tmp_path: Path) -> None:
    path = tmp_path / "qwen3-Q8_0.gguf"
    path.write_bytes(b"precious")
    error = refusal(tiny("qwen3"), ["F16", "Q8_0"], tmp_path)
    assert error.message == f"{path} exists already."
    assert error.hint == "Overwrite it with --force or write elsewhere with --out."
    with pytest.raises(EdgeError):
        write_checkpoint(tiny("qwen3"), ["F16", "Q8_0"], tmp_path)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_existing_output_is_replaced_with_force(tiny: TinyFolder, tmp_path: Path) -> None:
    path = tmp_path / "qwen3-F16.gguf"
    path.write_bytes(b"no longer wanted")
    assert write_checkpoint(tiny("qwen3"), ["F16"], tmp_path, force=True) == [path]
    assert path.read_bytes()[:4] == b"GGUF"


def test_directory_in_the_place_of_a_file_is_refused_even_with_force(tiny: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "qwen3-F16.gguf").mkdir()
    error = refusal(tiny("qwen3"), ["F16"], tmp_path, force=True)
    assert error.message == f"{tmp_path / 'qwen3-F16.gguf'} is a directory."
    assert error.hint == "Remove it or write elsewhere with --out."


def test_output_beside_the_weights_leaves_them_alone(tiny: TinyFolder, tmp_path: Path) -> None:
    source = shutil.copytree(tiny("qwen3"), tmp_path / "qwen3")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    (path,) = write_checkpoint(source, ["F16"], source)
    after = {path.name: path.read_bytes() for path in source.iterdir()}
    assert after.pop(path.name)[:4] == b"GGUF"
    assert after == before


def test_planning_writes_nothing(tiny: TinyFolder, tmp_path: Path) -> None:
    plan_checkpoint(tiny("qwen3"), ["F16"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_library_is_one_import() -> None:
    assert convert.convert_checkpoint is convert_checkpoint
    with pytest.raises(AttributeError, match="module 'convert' has no attribute 'convert_checkpoints'"):
        convert.convert_checkpoints  # noqa: B018

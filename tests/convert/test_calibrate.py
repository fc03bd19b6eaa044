"""Importance matrices measured in process: what is run, what comes of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.calibrate import measure_importance
from convert.calibration_run import MatrixRequest, obtain_matrix
from convert.calibration_text import CalibrationText, read_calibration_text
from convert.imatrix import check_matrix, read_imatrix, write_imatrix
from convert.pipeline import write_checkpoint
from convert.plan import ConversionOptions, open_source
from convert.pool import Progress
from convert.verify import verify_against
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.model import Model
from edge.prompt import Message
from tests.convert.conftest import TinyFolder

SENTENCES = "".join(f"Hive {number} holds {number * number} bees, and {number % 7} queens. " for number in range(99))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "bees.txt"
    path.write_text(SENTENCES, encoding="utf-8")
    return path


def test_matrix_has_the_weights_of_every_block_and_counts_every_token(tiny_gguf: Path, text_file: Path) -> None:
    reports: list[Progress] = []
    text = read_calibration_text(str(text_file))
    matrix = measure_importance(tiny_gguf, text, threads=1, progress=reports.append)
    check_matrix(matrix, {tensor.name: tensor.shape for tensor in open_source(tiny_gguf).tensors})
    assert len(matrix.entries) == 8 * 7
    assert {entry.counts.tolist()[0] for entry in matrix.entries.values()} == {matrix.chunk_count * 512}
    assert (matrix.name, matrix.datasets, matrix.chunk_tokens) == ("bees.txt", ("bees.txt",), 512)
    assert reports[0].done_bytes == 0 and reports[-1].done_bytes == reports[-1].total_bytes == len(SENTENCES)


def test_each_expert_is_measured_on_the_tokens_that_reached_it(
    tiny: TinyFolder, text_file: Path, tmp_path: Path
) -> None:
    """What experts see is what the router sees, as often as it sends it to any of them."""
    (model,) = write_checkpoint(tiny("mixtral"), ["F32"], tmp_path)
    matrix = measure_importance(model, read_calibration_text(str(text_file)), threads=1)
    used = read_gguf(model).metadata["llama.expert_used_count"]
    router = matrix.entries["blk.1.ffn_gate_inp.weight"]
    for name in ("ffn_gate_exps", "ffn_up_exps"):
        experts = matrix.entries[f"blk.1.{name}.weight"]
        assert len(experts.counts) == experts.sums.shape[0] > 1
        assert experts.counts.sum() == used * router.counts[0]
        np.testing.assert_allclose(experts.sums.sum(axis=0), used * router.sums[0], rtol=1e-4)
    down = matrix.entries["blk.1.ffn_down_exps.weight"]
    assert down.counts.tolist() == matrix.entries["blk.1.ffn_up_exps.weight"].counts.tolist()


def test_checkpoint_is_run_as_a_file_that_is_gone_afterwards(tiny: TinyFolder, text_file: Path, tmp_path: Path) -> None:
    request = MatrixRequest(calibrate=str(text_file), save=tmp_path / "kept.gguf")
    out = tmp_path / "out"
    matrix = obtain_matrix(request, tiny("qwen3"), beside=out / "model.gguf", threads=1)
    assert matrix is not None
    assert [path.name for path in tmp_path.iterdir()] == ["kept.gguf"]
    kept = read_imatrix(tmp_path / "kept.gguf")
    assert kept.entries.keys() == matrix.entries.keys()
    options = ConversionOptions(matrix=matrix)
    paths = write_checkpoint(tiny("qwen3"), ["IQ3_M", "IQ3_XXS", "IQ2_M", "Q8_0"], out, options=options, threads=1)
    for path in paths:
        assert verify_against(path, tiny("qwen3")).errors[0].share_of_bound < 1
        assert read_gguf(path).metadata["quantize.imatrix.file"] == "bees.txt"


def test_files_that_are_not_quantized_are_not_said_to_be_made_with_a_matrix(
    tiny: TinyFolder, tiny_gguf: Path, text_file: Path, tmp_path: Path
) -> None:
    matrix = obtain_matrix(MatrixRequest(calibrate=str(text_file)), tiny_gguf, threads=1)
    (path,) = write_checkpoint(tiny("llama3"), ["BF16"], tmp_path, options=ConversionOptions(matrix=matrix))
    assert "quantize.imatrix.file" not in read_gguf(path).metadata


def test_matrix_is_read_and_kept_in_the_newer_format(tmp_path: Path, tiny_gguf: Path, text_file: Path) -> None:
    matrix = measure_importance(tiny_gguf, read_calibration_text(str(text_file)), threads=1)
    write_imatrix(tmp_path / "one.gguf", matrix)
    request = MatrixRequest(file=tmp_path / "one.gguf", save=tmp_path / "other.gguf")
    obtain_matrix(request, tiny_gguf)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "other.gguf").read_bytes()


def test_no_request_gives_no_matrix(tiny_gguf: Path) -> None:
    assert obtain_matrix(MatrixRequest(), tiny_gguf) is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (MatrixRequest(Path("m.gguf"), "default"), "--imatrix and --calibrate exclude each other."),
        (MatrixRequest(save=Path("m.gguf")), "--save-imatrix has nothing to save."),
    ],
)
def test_requests_that_make_no_sense_are_refused(request_: MatrixRequest, message: str, tiny_gguf: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        obtain_matrix(request_, tiny_gguf)
    assert caught.value.message == message


def test_text_that_is_too_short_is_refused(tiny_gguf: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        measure_importance(tiny_gguf, CalibrationText("note.txt", ("Only a few words.",)), threads=1)
    assert caught.value.message.startswith("The calibration text note.txt has ")
    assert caught.value.message.endswith(" tokens; 1024 are the least that can be measured.")


def test_activations_that_are_not_finite_are_named(tiny_gguf: Path, text_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_gguf.read_bytes())
    norm = read_gguf(damaged).tensors["blk.1.ffn_norm.weight"]
    values = np.memmap(damaged, np.float32, "r+", norm.offset, norm.shape)
    values[5] = np.inf
    values.flush()
    with pytest.raises(EdgeError) as caught:
        measure_importance(damaged, read_calibration_text(str(text_file)), threads=1)
    assert "NaN or infinity for 'blk.1.ffn_" in caught.value.message


@pytest.mark.parametrize("quantization", ["IQ3_M", "IQ3_XXS", "IQ2_M"])
def test_recipe_that_needs_a_matrix_says_how_to_get_one(quantization: str, tiny: TinyFolder, tmp_path: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(tiny("qwen3"), [quantization], tmp_path)
    assert caught.value.message == f"{quantization} needs an importance matrix."
    assert caught.value.hint is not None and "--calibrate default" in caught.value.hint


def test_matrix_of_another_model_is_refused(tiny: TinyFolder, tiny_gguf: Path, text_file: Path, tmp_path: Path) -> None:
    matrix = measure_importance(tiny_gguf, read_calibration_text(str(text_file)), threads=1)
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(tiny("qwen2"), ["Q4_K_M"], tmp_path, options=ConversionOptions(matrix=matrix))
    assert caught.value.message == (
        "The importance matrix bees.txt is of another model: it knows 'blk.2.attn_k.weight', which the model does not"
        " have."
    )


# The texts


def test_own_text_has_many_kinds_and_enough_of_them(tiny_gguf: Path) -> None:
    text = read_calibration_text("default")
    assert text.name == "edge's own text"
    assert len(text.texts) == 5 and len(text.dialogues) > 8
    assert {message.role for dialogue in text.dialogues for message in dialogue} == {"system", "user", "assistant"}
    assert all(message.content for dialogue in text.dialogues for message in dialogue)
    assert 40_000 < text.n_bytes < 60_000
    together = "\n".join(text.texts)
    assert all(word in together for word in ("def ", "SELECT", "Photosynthesis", "Der Winter", "喫茶店", "туман"))


def test_conversations_are_read_in_the_model_s_own_template(tiny_gguf: Path) -> None:
    dialogue = (Message("user", "Hello?"), Message("assistant", "Yes."))
    text = CalibrationText("t", ("Plain.",), (dialogue,))
    with Model(tiny_gguf) as model:
        tokens = text.tokens(model.vocab, model.chat_template)
        plain = model.vocab.tokenize("Plain.")
        assert tokens[: len(plain)] == plain
        control = {token for token in tokens if model.vocab.is_control(token)}
        assert len(control) > 2  # begin of text, headers and the ends of turns
        assert text.tokens(model.vocab, None) == plain


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("Gr\u00fc\u00dfe".encode("latin-1"))
    with pytest.raises(EdgeError) as caught:
        read_calibration_text(str(path))
    assert caught.value.message == f"{path} is not UTF-8: byte 0xfc at offset 2."


def test_missing_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="cannot be read: No such file or directory"):
        read_calibration_text(str(tmp_path / "none.txt"))

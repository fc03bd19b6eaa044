"""The output of a batch: whatever ends a run, the next one loses no answer and repeats none."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import edge.batch_output
from edge.batch import BatchSettings, run_batch
from edge.batch_input import Line
from edge.batch_output import (
    OutputFile,
    StandardOutput,
    encoded_line,
    examine_output,
    lock_output,
    release_output,
)
from edge.errors import EdgeError
from tests.edge.batches import answers_in, batch_of, line_text, status
from tests.edge.fake_engine import FakeEngine

SETTINGS = BatchSettings("demo", "fp_1")
LINES = batch_of(line_text("a"), line_text("b", "Ünï\u2028code"), line_text("c", top_p=7))


def answer_into(path: Path, lines: list[Line], engine: FakeEngine | None = None) -> None:
    """Answer what is not answered yet."""
    written = examine_output(path, lines, "in.jsonl")
    left = [line for line in lines if line.custom_id not in written.done]
    with OutputFile(path, written) as output:
        run_batch(left, engine or FakeEngine(["é\u2028è", "two", "three"]), output.write, SETTINGS)


def refusal(path: Path, lines: list[Line]) -> tuple[str, str]:
    with pytest.raises(EdgeError) as caught:
        examine_output(path, lines, "in.jsonl")
    return caught.value.message, caught.value.hint


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl"
    answer_into(path, LINES)
    return path


def test_output_is_one_json_object_on_each_line_for_any_reader(answered: Path) -> None:
    text = answered.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 3  # splits at U+2028 too
    assert "é\\u2028è" in text
    assert [json.loads(line)["custom_id"] for line in text.splitlines()]


def test_answered_lines_are_known_again_and_failed_ones_are_not_done(answered: Path) -> None:
    written = examine_output(answered, LINES, "in.jsonl")
    assert (written.done, written.failed, written.torn_bytes) == ({"a", "b"}, 1, 0)
    assert written.fingerprints == {"fp_1"}


def test_output_cut_at_any_byte_is_completed_without_loss_or_repetition(answered: Path, tmp_path: Path) -> None:
    whole = answered.read_bytes()
    kept = {answer["custom_id"]: answer["id"] for answer in answers_in(answered)}
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:length])
        done = {answer["custom_id"] for answer in answers_in(path) if status(answer) == 200}
        answer_into(path, LINES)
        answers = answers_in(path)
        assert sorted(answer["custom_id"] for answer in answers) == ["a", "b", "c"]
        assert {answer["id"] for answer in answers if answer["custom_id"] in done} == {kept[one] for one in done}
        assert path.read_bytes().endswith(b"}\n")


def test_failed_line_is_asked_again_and_answered_once_it_is_corrected(answered: Path) -> None:
    corrected = batch_of(line_text("a"), line_text("b", "Ünï\u2028code"), line_text("c", top_p=0.5))
    answer_into(answered, corrected)
    answers = answers_in(answered)
    assert sorted((answer["custom_id"], status(answer)) for answer in answers) == [("a", 200), ("b", 200), ("c", 200)]
    assert not list(answered.parent.glob("*.part"))


def test_rewriting_leaves_a_file_of_another_alone(answered: Path) -> None:
    other = answered.with_name(f"{answered.name}.part")
    other.write_text("another's")
    answer_into(answered, LINES)
    assert other.read_text() == "another's"
    assert len(answers_in(answered)) == 3


def test_rewriting_keeps_links_and_permissions(answered: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(answered)
    answered.chmod(0o600)
    answer_into(link, LINES)
    assert link.is_symlink() and answered.stat().st_mode & 0o777 == 0o600
    assert len(answers_in(answered)) == 3


# What is no output of this batch


def test_answer_to_something_else_under_the_same_name_is_refused(answered: Path) -> None:
    number = next(n for n, answer in enumerate(answers_in(answered), 1) if answer["custom_id"] == "b")
    message, hint = refusal(answered, batch_of(line_text("a"), line_text("b", "Another"), line_text("c")))
    assert message == (f"{answered} has answered 'b' in line {number}, but line 2 of in.jsonl now asks something else.")
    assert hint == f"Give a new output file, or delete line {number} of {answered} to have it answered anew."


def test_output_of_another_batch_is_refused(answered: Path) -> None:
    message, hint = refusal(answered, batch_of(line_text("b", "Ünï\u2028code"), line_text("c"), line_text("d")))
    assert message.startswith(f"{answered} answers 'a' in line ") and message.endswith("which in.jsonl does not ask.")
    assert hint == "Give a new output file, or the one that this batch was begun with."


def test_output_that_answers_twice_is_refused(answered: Path) -> None:
    first = next(answer for answer in answers_in(answered) if answer["custom_id"] == "a")
    with answered.open("ab") as file:
        file.write(encoded_line(first))
    assert refusal(answered, LINES) == (f"{answered} answers 'a' twice.", "Delete line 4.")


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary,\nnothing happened today.\n",
        b"Dear diary",  # which is no line that was cut off either
        b'{"custom_id": "a"}\n',
        b'{"id": "batch_req_1", "custom_id": "a", "response": {"status_code": "200"}}\n',
        b'{"id": "batch_req_1", "custom_id": "a"\n',
        b'{"id": "batch_req_\xff"}\n',
        b"\n",
    ],
)
def test_other_file_is_neither_appended_to_nor_cut(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    message, _ = refusal(path, LINES)
    assert message == f"Line 1 of {path} is not an answer of a batch."
    assert path.read_bytes() == content


def test_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, LINES) == (f"{tmp_path} is a directory.", "Name a file for the answers.")


# Writing


class FullDisk(io.FileIO):
    """Has room for so many bytes."""

    room = 0

    def write(self, content: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fitting = bytes(content)[: self.room]
        self.room -= len(fitting)
        return super().write(fitting)


def test_full_disk_is_one_error_and_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    document: Mapping[str, Any] = {"id": "batch_req_1", "text": "x" * 100}
    line = encoded_line(document)
    with OutputFile(path, examine_output(path, [], "in.jsonl")) as output:
        full = FullDisk(path, "ab")
        full.room = len(line) + 10
        monkeypatch.setattr(output, "_file", full)
        output.write(document)
        with pytest.raises(EdgeError) as caught:
            output.write(document)
    assert caught.value.message == f"{path} cannot be written: No space left on device."
    assert "the same command goes on from there" in caught.value.hint
    assert path.read_bytes() == line


@pytest.mark.parametrize(("written_bytes", "kept"), [(1, 1), (9, 1), (10, 2)])
def test_interrupted_while_a_line_is_written_it_is_there_whole_or_not_at_all(
    written_bytes: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, documents = tmp_path / "out.jsonl", [{"id": 1}, {"id": 2}]
    assert len(encoded_line(documents[1])) == 10

    def interrupted(file: Any, content: bytes) -> None:
        file.write(content[:written_bytes])
        raise KeyboardInterrupt

    with OutputFile(path, examine_output(path, [], "in.jsonl")) as output:
        output.write(documents[0])
        with monkeypatch.context() as patched:
            patched.setattr(edge.batch_output, "_write_all", interrupted)
            with pytest.raises(KeyboardInterrupt):
                output.write(documents[1])
    assert answers_in(path) == documents[:kept]
    assert path.read_bytes().endswith(b"}\n")


def test_output_is_synced_to_the_disk_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "out.jsonl", []
    monkeypatch.setattr(edge.batch_output.os, "fsync", synced.append)
    monkeypatch.setattr(edge.batch_output, "_FSYNC_SECONDS", -1.0)
    with OutputFile(path, examine_output(path, [], "in.jsonl")) as output:
        output.write({"id": 1})
        assert len(synced) == 1
    assert len(synced) == 2


def test_output_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "out.jsonl"
    with pytest.raises(EdgeError, match="cannot be written: No such file or directory"):
        OutputFile(path, examine_output(path, LINES, "in.jsonl"))


def test_one_process_at_a_time_writes_to_an_output(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lock = lock_output(path)
    with pytest.raises(EdgeError) as caught:
        lock_output(path)
    assert caught.value.message == f"Another process is writing to {path}."
    assert caught.value.hint == "Wait for it, or give another output file."
    release_output(lock)
    assert not list(tmp_path.iterdir())
    release_output(lock_output(path))


def test_standard_output_that_cannot_be_written_is_an_error() -> None:
    program = "from edge.batch_output import StandardOutput; StandardOutput().write({'id': 1})"
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, check=False)
    assert b"edge.errors.EdgeError: stdout cannot be written: No space left on device." in process.stderr


def test_answers_go_to_standard_output_line_by_line(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    StandardOutput().write({"id": "é"})
    assert capsysbinary.readouterr().out == '{"id": "é"}\n'.encode()

"""`edge batch`: files in, files out, and on from where it was ended."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edge.batch_command
from convert.pipeline import write_checkpoint
from edge.engine import Engine
from edge.settings import ModelSettings
from tests.edge.batches import answers_in, content_of, line_text, status, write_batch
from tests.edge.conftest import Command, error_lines
from tests.tiny import write_tiny_checkpoint

GREEDY = {"temperature": 0, "max_tokens": 8}
ONE_THREAD = ("--threads", "1", "--parallel", "2")
SCHEMA = {
    "type": "object",
    "properties": {"tag": {"enum": ["bees", "honey"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["tag", "count"],
    "additionalProperties": False,
}


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    return write_batch(tmp_path / "in.jsonl", [line_text(f"{n}", f"Say {n}", **GREEDY) for n in range(5)])


def test_file_of_requests_becomes_a_file_of_answers(edge_command: Command, tiny_gguf: Path, batch: Path) -> None:
    out = batch.with_name("out.jsonl")
    outcome = edge_command("batch", tiny_gguf, batch, out, *ONE_THREAD)
    assert (outcome.code, outcome.out) == (0, "")
    assert "5 lines in " in outcome.err and " prompt tokens came from the cache" in outcome.err
    answers = answers_in(out)
    assert {answer["custom_id"] for answer in answers} == set("01234")
    for answer in answers:
        body = answer["response"]["body"]
        assert (status(answer), body["model"]) == (200, tiny_gguf.stem)
        assert body["usage"]["completion_tokens"] <= 8
        assert body["system_fingerprint"].startswith("fp_")
    assert sorted(path.name for path in batch.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_batch_is_answered_with_weights_as_they_are_in_the_file(
    edge_command: Command, tiny_gguf: Path, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_engine(path: Path, settings: ModelSettings) -> Engine:
        opened.append(settings.repack_weights)
        return Engine(path, settings)

    monkeypatch.setattr("edge.engine.Engine", open_engine)
    for name, options in (("one", ()), ("two", ["--no-repack"])):
        assert edge_command("batch", tiny_gguf, batch, batch.with_name(name), *ONE_THREAD, *options).code == 0
    assert opened == [True, False]


def test_same_command_again_asks_only_what_is_left(edge_command: Command, tiny_gguf: Path, batch: Path) -> None:
    out = batch.with_name("out.jsonl")
    edge_command("batch", tiny_gguf, batch, out, *ONE_THREAD)
    before = out.read_bytes()
    outcome = edge_command("batch", tiny_gguf, batch, out, *ONE_THREAD)
    assert (outcome.code, outcome.err) == (0, f"All lines are answered already: {out}\n")
    assert out.read_bytes() == before
    out.write_bytes(b"".join(before.splitlines(keepends=True)[:2]) + b'{"id": "batch_r')
    outcome = edge_command("batch", tiny_gguf, batch, out, *ONE_THREAD)
    assert "3 lines in " in outcome.err
    assert sorted(answer["custom_id"] for answer in answers_in(out)) == list("01234")


def test_long_batch_says_that_its_prompts_are_read_first(
    edge_command: Command, tiny_gguf: Path, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.batch_command, "_ANNOUNCED_LINES", 5)
    outcome = edge_command("batch", tiny_gguf, batch, batch.with_name("out.jsonl"), *ONE_THREAD)
    assert outcome.err.startswith("Reading 5 prompts\n5 lines in ")


def test_response_format_is_honoured(edge_command: Command, tiny_gguf: Path, tmp_path: Path) -> None:
    named = {"type": "json_schema", "json_schema": {"name": "bees", "strict": True, "schema": SCHEMA}}
    common = {"temperature": 1, "max_tokens": 60}
    texts = [line_text(f"{n}", "Bees", seed=n, response_format=named, **common) for n in range(3)]
    texts.append(line_text("regex", "Bees", regex="yes|no", **common))
    out = tmp_path / "out.jsonl"
    assert edge_command("batch", tiny_gguf, write_batch(tmp_path / "in.jsonl", texts), out, *ONE_THREAD).code == 0
    answers = {answer["custom_id"]: answer for answer in answers_in(out)}
    for number in range(3):
        value = json.loads(content_of(answers[str(number)]))
        assert value.keys() == {"tag", "count"}
        assert value["tag"] in ("bees", "honey") and 0 <= value["count"] <= 9
        assert answers[str(number)]["response"]["body"]["choices"][0]["finish_reason"] == "stop"
    assert content_of(answers["regex"]) in ("yes", "no")


def test_lines_without_an_answer_end_the_command_with_an_error(
    edge_command: Command, tiny_gguf: Path, tmp_path: Path
) -> None:
    texts = [line_text("a", **GREEDY), line_text("b", temprature=1), line_text("c", "x" * 2000, **GREEDY)]
    out = tmp_path / "out.jsonl"
    outcome = edge_command(
        "batch", tiny_gguf, write_batch(tmp_path / "in.jsonl", texts), out, *ONE_THREAD, "--ctx", 512
    )
    assert outcome.code == 1
    assert "error: 2 of 3 lines got no answer, one of them because: " in outcome.err
    assert "The output says why of each. Correct them, and run the same command again" in outcome.err
    answers = {answer["custom_id"]: answer for answer in answers_in(out)}
    assert {custom_id: status(answer) for custom_id, answer in answers.items()} == {"a": 200, "b": 400, "c": 400}
    assert answers["b"]["response"]["body"]["error"]["param"] == "temprature"


def test_dashes_are_stdin_and_stdout(edge_command: Command, tiny_gguf: Path) -> None:
    outcome = edge_command("batch", tiny_gguf, "-", "-", *ONE_THREAD, stdin=line_text("a", **GREEDY).encode())
    assert outcome.code == 0
    (line,) = outcome.out.splitlines()
    assert json.loads(line)["custom_id"] == "a"


# What is refused


def test_output_over_the_input_is_refused(edge_command: Command, batch: Path) -> None:
    before = batch.read_bytes()
    message, hint = error_lines(edge_command("batch", "demo", batch, batch))
    assert (message, hint) == (f"{batch} is both input and output.", "Give another file for the answers.")
    assert batch.read_bytes() == before


def test_input_that_is_missing_or_no_batch_is_refused_before_a_model_is_opened(
    edge_command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    message, _ = error_lines(edge_command("batch", "absent.gguf", path, "-"))
    assert message == f"{path} cannot be read: No such file or directory."
    write_batch(path, [line_text("a"), line_text("a")])
    message, _ = error_lines(edge_command("batch", "absent.gguf", path, tmp_path / "out.jsonl"))
    assert message == f"{path} is not a batch: line 2: the custom_id 'a' is that of line 1."


def test_answers_of_another_model_are_not_mixed_in(
    edge_command: Command, tiny_gguf: Path, batch: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    edge_command("batch", tiny_gguf, batch, out, *ONE_THREAD)
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:2]))
    folder = tmp_path / "other"
    folder.mkdir()
    (other,) = write_checkpoint(write_tiny_checkpoint("llama3", folder), ["BF16"], folder / "other.gguf")
    message, hint = error_lines(edge_command("batch", other, batch, out, *ONE_THREAD))
    assert message == f"{out} holds answers of another model, or with other adapters."
    assert hint == "Go on with the model that it was begun with, or give a new output file."
    assert len(answers_in(out)) == 2


def test_full_disk_is_one_clear_error(edge_command: Command, tiny_gguf: Path, batch: Path) -> None:
    message, hint = error_lines(edge_command("batch", tiny_gguf, batch, "/dev/full", *ONE_THREAD))
    assert message == "/dev/full cannot be written: No space left on device."
    assert hint.startswith("Make room for it")


# What ends it


def start(model: Path, batch: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edge.cli", "batch", str(model), str(batch), str(out), *ONE_THREAD]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_bytes(process: subprocess.Popen[bytes], path: Path, n_bytes: int) -> None:
    """Wait until the output has grown that long, or the process has ended."""
    while process.poll() is None and (not path.exists() or path.stat().st_size < n_bytes):
        time.sleep(0.001)


def test_killed_again_and_again_it_repeats_and_loses_nothing(tiny_gguf: Path, tmp_path: Path) -> None:
    # each line is led to repeat a token of its own, a number of times of its own: the likeliest token of a model with
    # random weights may else change with what is computed beside it
    texts = [
        line_text(
            f"{n}", f"Tell me about {n % 7}, {n}.", temperature=0, max_tokens=20 + n % 20, logit_bias={300 + n: 100}
        )
        for n in range(120)
    ]
    batch = write_batch(tmp_path / "in.jsonl", texts)
    undisturbed, out = tmp_path / "undisturbed.jsonl", tmp_path / "out.jsonl"
    assert start(tiny_gguf, batch, undisturbed).wait() == 0
    expected = {answer["custom_id"]: content_of(answer) for answer in answers_in(undisturbed)}
    assert len(expected) == len(texts) and len(set(expected.values())) > 60

    draws, kills = random.Random(4), 0
    line_bytes = undisturbed.stat().st_size // len(texts)
    for _ in range(5):
        before = out.stat().st_size if out.exists() else 0
        process = start(tiny_gguf, batch, out)
        wait_for_bytes(process, out, before + draws.randrange(1, 10 * line_bytes))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2  # else this shows nothing
    assert start(tiny_gguf, batch, out).wait() == 0
    answers = answers_in(out)
    assert sorted(answer["custom_id"] for answer in answers) == sorted(expected)
    assert {answer["custom_id"]: content_of(answer) for answer in answers} == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_interrupted_it_ends_with_what_was_written(tiny_gguf: Path, tmp_path: Path) -> None:
    batch = write_batch(tmp_path / "in.jsonl", [line_text(f"{n}", max_tokens=200, temperature=0) for n in range(200)])
    out = tmp_path / "out.jsonl"
    process = start(tiny_gguf, batch, out)
    wait_for_bytes(process, out, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip() == b"Interrupted. What was answered is kept; the same command goes on from there."
    assert 1 <= len(answers_in(out)) < 200
    assert out.read_bytes().endswith(b"}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]

"""The `edge` command: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

import edge.engine
import edge.models
from edge.cli import COMMANDS
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile
from edge.settings import ModelSettings
from tests.edge.conftest import Command, Outcome, error_lines
from tests.edge.fake_engine import FakeEngine
from tests.tiny import write_tiny_checkpoint

HEAVY = (
    *("numpy", "llama_cpp", "llama_cpp.llama_cpp", "gguf", "jinja2", "llguidance", "prompt_toolkit", "huggingface_hub"),
    *("fastapi", "uvicorn", "pydantic", "asyncio", "ctypes", "ssl"),
    *("edge.llama", "edge.engine", "edge.chat", "edge.server", "edge.models", "bench", "convert.pipeline"),
)
SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


class Opened:
    """What was asked of the model resolver and of the engine, which is a fake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = FakeEngine(["It is Paris."])
        self.reference = ""
        self.quantization: str | None = None
        self.settings = ModelSettings()
        self.isolate: bool | None = None

    def resolve(
        self, reference: str, *, quantization: str | None = None, progress: object = None, choose: object = None
    ) -> Path:
        self.reference, self.quantization = reference, quantization
        return self.path

    def open(self, model: Path | GGUFFile, settings: ModelSettings, *, isolate: bool) -> FakeEngine:
        assert self.path == (model if isinstance(model, Path) else model.path)
        self.settings, self.isolate = settings, isolate
        return self.engine


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path, tmp_path: Path) -> Opened:
    monkeypatch.setenv("EDGE_STATE", str(tmp_path / "state"))
    fake = Opened(tiny_gguf)
    monkeypatch.setattr(edge.models, "resolve", fake.resolve)
    monkeypatch.setattr(edge.engine, "Engine", fake.open)
    return fake


# Answers


def test_answer_goes_to_stdout_and_nothing_else_is_written(edge_command: Command, opened: Opened) -> None:
    assert edge_command("run", "demo", "Capital of France?") == Outcome(0, "It is Paris.\n", "")
    assert (opened.reference, opened.isolate) == ("demo", False)  # nothing is quicker for one answer
    assert opened.engine.prompt() == "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\n"


def test_json_is_one_document(edge_command: Command, opened: Opened) -> None:
    outcome = edge_command("run", "demo", "Capital of France?", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out) == {
        "text": "It is Paris.",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 37,
            "cached_tokens": 0,
            "completion_tokens": 3,
            "forced_tokens": 0,
            "drafted_tokens": 0,
            "accepted_tokens": 0,
        },
        "timing": {
            "queued_seconds": 0.0,
            "first_token_seconds": 0.25,
            "decode_seconds": 0.5,
            "tokens_per_second": 4.0,
        },
    }


def test_options_reach_the_model_the_engine_and_the_request(edge_command: Command, opened: Opened) -> None:
    options = ["--system", "Brief.", "--max-tokens", "7", "--temperature", "0", "--seed", "5", "--quant", "Q8_0"]
    options += ["--ctx", "99", "--threads", "3"]
    assert edge_command("run", "org/name", "Hi", *options).code == 0
    request = opened.engine.requests[0]
    assert (opened.reference, opened.quantization) == ("org/name", "Q8_0")
    assert opened.settings == ModelSettings(context_tokens=99, threads=3)
    assert (request.max_tokens, request.sampling.temperature, request.sampling.seed) == (7, 0, 5)
    assert opened.engine.prompt().startswith("<|im_start|>system\nBrief.<|im_end|>")


def test_without_options_the_model_decides_how_to_sample(edge_command: Command, opened: Opened) -> None:
    edge_command("run", "demo", "Hi")
    assert opened.engine.requests[0].sampling == opened.engine.default_sampling
    assert opened.engine.requests[0].constraint is None


def test_raw_prompt_is_continued_without_template(edge_command: Command, opened: Opened) -> None:
    assert edge_command("run", "demo", "Once upon", "--raw").code == 0
    assert opened.engine.prompt() == "Once upon"


def test_system_text_for_a_raw_prompt_is_refused_rather_than_ignored(edge_command: Command, opened: Opened) -> None:
    message, hint = error_lines(edge_command("run", "demo", "Once upon", "--raw", "--system", "Be brief."))
    assert message == "--raw continues the prompt as it is: there is no place for --system."
    assert hint == "Leave one of them out."


def test_dash_reads_the_prompt_from_stdin(edge_command: Command, opened: Opened) -> None:
    assert edge_command("run", "demo", "-", stdin="Où?".encode()).code == 0
    assert "<|im_start|>user\nOù?<|im_end|>" in opened.engine.prompt()


def test_stdin_that_is_not_utf8_is_refused(edge_command: Command, opened: Opened) -> None:
    message, hint = error_lines(edge_command("run", "demo", "-", stdin="Où?".encode("latin-1")))
    assert message == "stdin is not UTF-8: byte 0xf9 at offset 1."
    assert "iconv" in hint
    assert opened.reference == ""


def test_chat_answers_the_lines_of_a_pipe(edge_command: Command, opened: Opened) -> None:
    outcome = edge_command("chat", "--system", "Be brief.", "--temperature", "0", stdin=b"Capital of France?\n\nThanks")
    assert outcome == Outcome(0, "It is Paris.\nok\n", "")
    assert (opened.reference, opened.isolate) == ("demo", True)
    assert opened.engine.requests[0].sampling.temperature == 0
    assert "It is Paris." in opened.engine.prompt()


def test_chat_from_a_pipe_that_is_not_utf8_ends_with_an_error(edge_command: Command, opened: Opened) -> None:
    outcome = edge_command("chat", "demo", stdin=b"Capital?\n\xff\n")
    assert (outcome.code, outcome.out) == (1, "It is Paris.\n")
    assert outcome.err.startswith("error: Line 2 of stdin is not UTF-8: byte 0xff at offset 0.\nhint:  ")


# Constraints


def test_schema_regex_and_grammar_become_constraints(edge_command: Command, opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    (tmp_path / "grammar.lark").write_text('start: "yes"')
    for option, value in (
        ("--schema", tmp_path / "schema.json"),
        ("--regex", "[0-9]+"),
        ("--grammar", tmp_path / "grammar.lark"),
    ):
        assert edge_command("run", "demo", "Hi", option, value).code == 0
    constraints = [request.constraint for request in opened.engine.requests]
    assert [(constraint.kind, constraint.text) for constraint in constraints if constraint] == [
        ("json_schema", SCHEMA),
        ("regex", "[0-9]+"),
        ("grammar", 'start: "yes"'),
    ]


def test_schema_file_that_is_missing_is_refused_before_a_model_is_opened(
    edge_command: Command, opened: Opened, tmp_path: Path
) -> None:
    path = tmp_path / "absent.json"
    message, hint = error_lines(edge_command("run", "demo", "Hi", "--schema", path))
    assert message == f"{path} cannot be read: No such file or directory."
    assert hint == "Check the path."
    assert opened.reference == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"type": ', "JSON"), (b"\xff\xfe{", "is not UTF-8: byte 0xff at offset 0"), (b'"a string"', "JSON Schema")],
)
def test_schema_file_that_is_no_schema_is_refused(
    edge_command: Command, opened: Opened, tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(content)
    message, _ = error_lines(edge_command("run", "demo", "Hi", "--schema", path))
    assert expected in message
    assert opened.reference == ""


def test_two_constraints_are_refused(edge_command: Command, opened: Opened, tmp_path: Path) -> None:
    message, hint = error_lines(edge_command("run", "demo", "Hi", "--regex", "a", "--schema", tmp_path / "s.json"))
    assert (message, hint) == ("--schema and --regex exclude each other.", "Give one constraint.")


def test_empty_regular_expression_is_a_constraint_too(edge_command: Command, opened: Opened) -> None:
    assert edge_command("run", "demo", "Hi", "--regex", "").code == 0
    constraint = opened.engine.requests[0].constraint
    assert constraint is not None
    assert constraint.text == ""


@pytest.mark.parametrize("format_", [(), ("--json",)])
def test_constrained_answer_that_was_cut_off_is_printed_and_is_an_error(
    edge_command: Command, opened: Opened, format_: tuple[str, ...]
) -> None:
    outcome = edge_command("run", "demo", "Hi", "--regex", "It is [a-zA-Z]+", "--max-tokens", "2", *format_)
    assert outcome.code == 1
    assert "It is" in outcome.out
    error, hint = outcome.err.splitlines()
    assert error == "error: The answer was cut off at the token limit, so it may not meet its constraint."
    assert "--max-tokens" in hint


def test_free_answer_that_was_cut_off_is_an_answer(edge_command: Command, opened: Opened) -> None:
    assert edge_command("run", "demo", "Hi", "--max-tokens", "2") == Outcome(0, "It is \n", "")


# Exit codes


def test_error_is_two_lines_on_stderr_and_exit_code_1(edge_command: Command, opened: Opened) -> None:
    error = EdgeError("The prompt has 9000 tokens, the context holds 4096.", hint="Shorten the prompt.")
    opened.engine = FakeEngine([error])
    expected = f"error: {error.message}\nhint:  {error.hint}\n"
    assert edge_command("run", "demo", "Hi") == Outcome(1, "", expected)
    opened.engine = FakeEngine([error])
    assert edge_command("run", "demo", "Hi", "--json") == Outcome(1, "", expected)


@pytest.mark.parametrize(
    "arguments",
    [("run", "demo"), ("run",), ("frobnicate",), ("run", "demo", "Hi", "--max-tokens", "many"), ("chat", "--nonsense")],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(edge_command: Command, opened: Opened, arguments: tuple[str, ...]) -> None:
    outcome = edge_command(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Usage: " in outcome.err
    assert opened.reference == ""


def test_value_that_no_sampler_takes_is_exit_code_1_with_the_range(edge_command: Command, opened: Opened) -> None:
    message, hint = error_lines(edge_command("run", "demo", "Hi", "--temperature", "-1"))
    assert (message, hint) == ("temperature is -1.0.", "temperature must be at least 0.")


def test_interruption_is_exit_code_130(edge_command: Command, opened: Opened) -> None:
    def interrupt(word: str) -> None:
        if word == "Paris.":
            raise KeyboardInterrupt

    opened.engine.before_token = interrupt
    outcome = edge_command("run", "demo", "Capital of France?")
    assert (outcome.code, outcome.out) == (130, "It is ")
    assert "Traceback" not in outcome.err


def test_help_and_version_are_exit_code_0(edge_command: Command) -> None:
    for name in ("--help", "-h"):
        outcome = edge_command(name)
        assert (outcome.code, outcome.err) == (0, "")
        for command in ("convert", "verify", "inspect", "run", "chat", "doctor"):
            assert command in outcome.out
    version = edge_command("--version")
    assert (version.code, version.out[:5]) == (0, "edge ")


# Files


def test_unknown_quantization_lists_the_known_ones(edge_command: Command, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint("llama3", tmp_path)
    message, hint = error_lines(edge_command("convert", checkpoint, "--quant", "Q9_9"))
    assert "Q9_9" in message
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_K_M"):
        assert name in hint


def test_model_that_is_nowhere_is_refused_with_what_a_model_can_be(edge_command: Command) -> None:
    message, hint = error_lines(edge_command("run", "no-such-model", "Hi"))
    assert "no-such-model" in message
    assert "demo" in hint


def test_file_that_is_no_gguf_is_refused(edge_command: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model, but long enough to be looked at")
    for arguments in (("inspect", path), ("verify", path), ("run", path, "Hi")):
        message, _ = error_lines(edge_command(*arguments))
        assert str(path) in message


def test_conversion_is_planned_made_verified_and_described_in_json(edge_command: Command, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint("llama3", tmp_path)
    out = tmp_path / "llama3.gguf"
    arguments = ("convert", checkpoint, "--quant", "Q8_0", "--out", out, "--json")
    plan = edge_command(*arguments, "--plan")
    assert plan.code == 0
    assert not out.exists()
    made = edge_command(*arguments)
    assert made.code == 0
    assert str(out.stat().st_size) in plan.out
    verified = edge_command("verify", out, "--against", checkpoint, "--json")
    described = edge_command("inspect", out, "--json")
    for outcome in (plan, made, verified, described):
        assert outcome.code == 0
        assert json.loads(outcome.out)


def test_existing_file_is_overwritten_only_when_forced(edge_command: Command, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint("llama3", tmp_path)
    out = tmp_path / "llama3.gguf"
    out.write_text("mine")
    arguments = ("convert", checkpoint, "--quant", "Q8_0", "--out", out, "--no-verify")
    message, hint = error_lines(edge_command(*arguments))
    assert message == f"{out} exists already."
    assert "--force" in hint
    assert out.read_text() == "mine"
    assert edge_command(*arguments, "--force").code == 0
    assert out.stat().st_size > 1000


def test_tables_fit_a_narrow_terminal(edge_command: Command, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    outcome = edge_command("inspect", tiny_gguf, "--all")
    assert outcome.code == 0
    assert max(map(len, Text.from_ansi(outcome.out).plain.splitlines())) <= 80


def test_doctor_reports_in_json_and_for_people(edge_command: Command) -> None:
    told, document = edge_command("doctor"), edge_command("doctor", "--json")
    assert (told.code, document.code) == (0, 0)
    report = json.loads(document.out)
    assert {"machine", "installation", "threads", "disk", "findings"} <= report.keys()
    for label, value in (
        ("numpy", report["installation"]["versions"]["numpy"]),
        ("name", report["machine"]["cpu"]["name"]),
        ("threads used", report["threads"]),
    ):
        assert re.search(rf"^{label} +{re.escape(str(value))}$", told.out, re.MULTILINE)


# The command as a process of its own


def run_process(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edge.cli", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=120)


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from edge.cli import main
sys.argv = ["edge", "--help"]
try:
    main()
except SystemExit:
    print("heavy:", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("name", COMMANDS)
def test_of_all_commands_only_the_one_that_is_asked_for_is_imported(name: str) -> None:
    code = f"""
import sys
from edge.cli import COMMANDS, main
sys.argv = ["edge", {name!r}, "--help"]
try:
    main()
except SystemExit:
    modules = {{function.partition(":")[0] for function in COMMANDS.values()}}
    print("imported:", *sorted(name for name in modules if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.lstrip().startswith(f"Usage: edge {name} ")
    imported = done.stdout.splitlines()[-1].split()[1:]
    assert COMMANDS[name].partition(":")[0] in imported
    assert set(imported) <= {COMMANDS[name].partition(":")[0], "edge.model_commands"}  # whose options others share


def test_sessions_are_listed_without_prompt_and_llama_cpp(tmp_path: Path) -> None:
    code = """
import sys
from edge.cli import main
sys.argv = ["edge", "chat", "--list"]
not_needed = "numpy", "llama_cpp.llama_cpp", "edge.llama", "edge.repl", "edge.engine", "prompt_toolkit", "jinja2"
try:
    main()
except SystemExit:
    print("heavy:", *[name for name in not_needed if name in sys.modules])
"""
    environment = {**os.environ, "EDGE_STATE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["heavy:"]
    assert done.stderr.startswith("There are no sessions in ")


def test_file_that_is_here_is_run_without_the_hub_and_the_converter(tiny_gguf: Path) -> None:
    code = f"""
import sys
from edge.cli import main
sys.argv = ["edge", "run", {str(tiny_gguf)!r}, "Hi", "--max-tokens", "2", "--threads", "1"]
not_needed = "gguf", "huggingface_hub", "convert.pipeline", "rich"
try:
    main()
except SystemExit:
    print("\\nheavy:", *[name for name in not_needed if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_process_answers_on_stdout_in_utf8_and_keeps_stderr_empty(tiny_gguf: Path) -> None:
    done = run_process("run", tiny_gguf, "-", "--max-tokens", "8", "--threads", "1", stdin="Où est Paris?".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode()


def test_process_that_fails_has_exit_code_1(tmp_path: Path) -> None:
    done = run_process("inspect", tmp_path / "absent.gguf")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: ")


def test_reader_that_goes_away_ends_the_command_quietly(tiny_gguf: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edge.cli", "inspect", str(tiny_gguf), "--json"]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=120)
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode != 0


@pytest.mark.model
def test_real_model_answers_in_json_as_a_schema_demands(demo_gguf: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    document = {"type": "object", "properties": {"sum": {"enum": [3, 4, 5]}}, "required": ["sum"]}
    schema.write_text(json.dumps({**document, "additionalProperties": False}))
    done = run_process(
        "run", demo_gguf, "What is two and two, as JSON?", "--schema", schema, "--temperature", "0", "--threads", "1"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["sum"] in (3, 4, 5)


@pytest.mark.model
def test_real_model_answers_only_what_a_schema_beyond_its_mask_admits(demo_gguf: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    colours = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 3, "maxItems": 3}
    run = ("run", demo_gguf, "Name three colours as JSON.", "--schema", schema, "--seed", "1", "--threads", "1")
    schema.write_text(json.dumps({**colours, "uniqueItems": True, "format": "colours"}))
    done = run_process(*run)
    assert done.returncode == 0
    assert sorted(json.loads(done.stdout)) == ["blue", "green", "red"]
    warning = "warning: The format 'colours' at #/format is none of JSON Schema's, which takes it for a comment.\n"
    assert done.stderr.decode() == warning
    schema.write_text(json.dumps({**colours, "contains": {"const": "black"}}))
    done = run_process(*run)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: None of 4 attempts satisfies the JSON Schema; of the best, ")


def test_kv_cache_is_kept_as_the_option_says(edge_command: Command, opened: Opened) -> None:
    assert edge_command("run", "demo", "Hello", "--kv-type", "q8_0").code == 0
    assert (opened.settings.key_type, opened.settings.value_type) == ("Q8_0", "Q8_0")


def test_kv_cache_of_an_unknown_type_is_refused(edge_command: Command, opened: Opened) -> None:
    message, hint = error_lines(edge_command("run", "demo", "Hello", "--kv-type", "Q5"))
    assert message == "The KV cache cannot be kept as 'Q5'."
    assert hint == "Types: F16, Q8_0, Q4_0; or two of them with / between, for keys and values."


def test_draft_model_is_resolved_like_the_model(edge_command: Command, opened: Opened) -> None:
    assert edge_command("run", "demo", "Hello", "--draft", "org/small").code == 0
    assert opened.settings.draft_model == opened.path

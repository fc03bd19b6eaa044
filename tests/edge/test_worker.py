"""The engine in a process of its own: the same answers and errors, and a host that outlives whatever happens to it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edge import worker as worker_module
from edge.checked import CheckedStream, InvalidReplyError
from edge.constraint import Constraint
from edge.engine import Engine
from edge.errors import EdgeError, EngineBusyError
from edge.local_engine import LocalEngine
from edge.prefix_file import SUFFIX
from edge.prompt import Message
from edge.request import FinishEvent, Request, TokenEvent
from edge.settings import ModelSettings, SamplingSettings
from edge.stream import Stream
from edge.wire import OPENING, Open, Raised, pack, read_frame
from edge.worker import WorkerEngine
from edge.worker_connection import EngineDiedError, WorkerConnection, WorkerSettings, exit_text
from edge.worker_launch import ARGUMENT, MARK, launch

GREEDY = SamplingSettings(temperature=0)
SETTINGS = ModelSettings(context_tokens=256, threads=1, parallel=4)
QUESTION = [Message("user", "What do bees do?")]
PROMPT = (1, 5, 9, 20)


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[WorkerEngine]:
    with WorkerEngine(tiny_gguf, SETTINGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def local(tiny_gguf: Path) -> Iterator[LocalEngine]:
    with LocalEngine(tiny_gguf, SETTINGS) as opened:
        yield opened


def long_request() -> Request:
    """One that is at work until something happens to it."""
    return Request(PROMPT, max_tokens=200, ignore_eos=True)


def failure_of(stream: Stream) -> EdgeError | None:
    """With what a request ended, if not with a reply."""
    try:
        stream.result()
    except EdgeError as error:
        return error
    return None


# As in process


def test_requests_tokens_and_figures_are_those_of_an_engine_in_this_process(
    engine: WorkerEngine, local: LocalEngine
) -> None:
    assert (engine.context_tokens, engine.default_sampling) == (local.context_tokens, local.default_sampling)
    assert engine.text_tokens("Bees dance.") == local.text_tokens("Bees dance.")
    assert engine.chat_tokens(QUESTION) == local.chat_tokens(QUESTION)
    request = Request(local.text_tokens("Bees dance."), sampling=GREEDY, max_tokens=12, ignore_eos=True)
    here, there = list(local.submit(request)), list(engine.submit(request))
    assert there[:-1] == here[:-1]
    assert all(isinstance(event, TokenEvent) for event in there[:-1])
    assert isinstance(there[-1], FinishEvent) and isinstance(here[-1], FinishEvent)
    assert (there[-1].text, there[-1].reason) == (here[-1].text, here[-1].reason)
    assert there[-1].usage.completion_tokens == here[-1].usage.completion_tokens == 12


def test_facade_gives_the_same_with_and_without_isolation(tiny_gguf: Path) -> None:
    texts = []
    for isolate in (True, False):
        with Engine(tiny_gguf, SETTINGS, isolate=isolate) as engine:
            assert engine.context_tokens == 256
            assert engine.default_sampling.top_k == 40
            request = Request(engine.chat_tokens(QUESTION), sampling=GREEDY, max_tokens=8)
            texts.append((engine.text_tokens("Bees"), engine.submit(request).result().text))
    assert texts[0] == texts[1]


def test_isolated_host_does_not_load_the_library(tiny_gguf: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edge import Engine, Request\n"
        f"with Engine(Path({str(tiny_gguf)!r})) as engine:\n"
        "    engine.submit(Request((1, 5), max_tokens=2)).result()\n"
        "print([name for name in sys.modules if name.startswith(('llama_cpp', 'edge.llama'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "The prompt is empty."),
        (Request((1,) * 256), "The prompt has 256 tokens, the context holds 256."),
        (Request((1, 5), max_tokens=0), "max_tokens is 0."),
    ],
)
def test_request_that_cannot_be_is_refused_at_once(engine: WorkerEngine, request_: Request, message: str) -> None:
    with pytest.raises(EdgeError) as caught:
        engine.submit(request_)
    assert caught.value.message == message
    assert caught.value.hint


def test_constraint_that_cannot_be_enforced_fails_its_own_request_only(engine: WorkerEngine) -> None:
    with pytest.raises(EdgeError, match="grammar cannot be read"):
        engine.submit(Request(PROMPT, constraint=Constraint.grammar("root ::= ("), max_tokens=4)).result()
    assert engine.submit(Request(PROMPT, max_tokens=4, ignore_eos=True)).result().tokens


def test_replies_to_schemas_are_checked_and_the_error_carries_the_best(engine: WorkerEngine) -> None:
    numbers = {"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    stream = engine.submit(Request(PROMPT, constraint=Constraint.json_schema(numbers, attempts=2), max_tokens=20))
    assert isinstance(stream, CheckedStream)
    with pytest.raises(InvalidReplyError) as caught:
        stream.result()
    assert caught.value.text == "[1, 1]"
    assert caught.value.violation.keyword == "uniqueItems"


def test_errors_keep_their_class_and_what_they_carry_on_their_way() -> None:
    for error in (EngineBusyError("256 requests wait.", hint="Ask later."), EngineDiedError("Gone.", hint="Again.")):
        (raised,) = unpacked(pack([Raised.by(3, error)]))
        assert isinstance(raised, Raised)
        came = raised.error()
        assert (type(came), came.message, came.hint, str(came)) == (type(error), error.message, error.hint, str(error))


def unpacked(frame: bytes) -> list[object]:
    reading, writing = os.pipe()
    os.write(writing, frame)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return read_frame(pipe)


def test_cancelled_request_ends_as_cancelled_and_gives_its_sequence_back(engine: WorkerEngine) -> None:
    streams = [engine.submit(long_request()) for _ in range(4)]
    for stream in streams:
        next(iter(stream))  # a loop that is left after one event
    ends = [list(stream)[-1] for stream in streams]
    assert all(isinstance(end, FinishEvent) and end.reason == "cancelled" for end in ends)
    assert engine.submit(Request(PROMPT, max_tokens=3, ignore_eos=True)).result().usage.completion_tokens == 3


def test_requests_run_together_in_an_event_loop(engine: WorkerEngine) -> None:
    async def tokens(first: int) -> tuple[int, ...]:
        request = Request((first, 5), sampling=GREEDY, max_tokens=10)
        return tuple([event.token async for event in engine.submit(request) if isinstance(event, TokenEvent)])

    async def both() -> list[tuple[int, ...]]:
        return await asyncio.gather(tokens(1), tokens(2))

    together = asyncio.run(both())
    assert together == [asyncio.run(tokens(1)), asyncio.run(tokens(2))]


def test_choices_of_one_prompt_are_completions_of_their_own_and_none_is_refused(engine: WorkerEngine) -> None:
    request = Request(PROMPT, sampling=SamplingSettings(seed=3), max_tokens=6)
    choices = engine.submit_choices(request, 3)
    assert len({choice.result().tokens for choice in choices}) > 1
    with pytest.raises(EdgeError) as caught:
        engine.submit_choices(request, 0)
    assert (caught.value.message, caught.value.hint) == ("0 completions were asked for.", "Ask for at least 1.")


def test_many_threads_each_get_their_own_answers(engine: WorkerEngine) -> None:
    prompts = [(1, 5 + number) for number in range(12)]
    expected = [engine.submit(Request(prompt, sampling=GREEDY, max_tokens=6)).result().tokens for prompt in prompts]
    found: dict[int, tuple[int, ...]] = {}

    def ask(number: int) -> None:
        request = Request(prompts[number], sampling=GREEDY, max_tokens=6)
        found[number] = engine.submit(request).result().tokens

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [found[number] for number in range(12)] == expected


def test_prefix_saved_by_one_process_is_taken_in_by_another(
    engine: WorkerEngine, tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the process is still where its host was
    prompt = tuple(range(5, 45))
    engine.submit(Request(prompt, max_tokens=1)).result()  # the engine then holds the prompt, and nothing else
    saved = engine.save_prefix(prompt, Path("prefix"))
    assert saved == 40
    with WorkerEngine(tiny_gguf, SETTINGS) as other:
        assert other.load_prefix(tmp_path / "prefix") == saved
        assert other.submit(Request(prompt, max_tokens=2)).result().usage.cached_tokens == 39
        (tmp_path / "prefix").write_bytes(b"no prefix")
        with pytest.raises(EdgeError, match="prefix"):
            other.load_prefix(Path("prefix"))


def test_template_variables_that_are_no_plain_values_are_refused(engine: WorkerEngine) -> None:
    with pytest.raises(EdgeError) as caught:
        engine.chat_tokens(QUESTION, {"tools": lambda: None})
    assert caught.value.message.startswith("What was asked of the engine cannot go to its process: ")
    assert caught.value.hint == "Give plain values."


# Opening


def test_file_that_is_no_model_is_refused_as_in_process(tmp_path: Path, tiny_gguf: Path) -> None:
    content = tiny_gguf.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    for part in (b"not a model, but long enough to be looked at", content[: len(content) // 2]):
        damaged.write_bytes(part)
        with pytest.raises(EdgeError) as here:
            LocalEngine(damaged)
        with pytest.raises(EdgeError) as there:
            WorkerEngine(damaged)
        assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)


def test_what_the_process_warns_of_is_a_warning_here(tmp_path: Path, tiny_gguf: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny_gguf.read_bytes())
    (tmp_path / f"model.system{SUFFIX}").write_bytes(b"no prefix")
    with pytest.warns(UserWarning, match=r"It is not used\."), WorkerEngine(model, SETTINGS) as engine:
        assert engine.text_tokens("Bees")


def test_context_beyond_what_the_model_was_trained_on_is_refused_and_leaves_no_process(tiny_gguf: Path) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(EdgeError) as caught:
        Engine(tiny_gguf, ModelSettings(context_tokens=1024))
    assert caught.value.message == "A context of 1024 tokens was asked for; the model was trained on 512."
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize("name", ["start_seconds", "hang_seconds", "step_seconds", "close_seconds"])
def test_time_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(EdgeError) as caught:
        replace(WorkerSettings(), **{name: 0.0})
    assert (caught.value.message, caught.value.hint) == (f"{name} is 0.0.", f"{name} must be above 0.")


def test_engine_opened_in_a_thread_answers_there(tiny_gguf: Path) -> None:
    found: list[int] = []

    def work() -> None:
        with WorkerEngine(tiny_gguf, SETTINGS) as engine:
            found.append(engine.submit(Request(PROMPT, max_tokens=5, ignore_eos=True)).result().usage.completion_tokens)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert found == [5]


# Closing


def test_closing_ends_requests_in_flight_as_cancelled_and_leaves_no_process(tiny_gguf: Path) -> None:
    engine = WorkerEngine(tiny_gguf, SETTINGS)
    streams = [engine.submit(long_request()) for _ in range(6)]
    engine.close()
    engine.close()
    ends = [list(stream)[-1] for stream in streams]
    reasons = [end.reason for end in ends if isinstance(end, FinishEvent)]
    assert len(reasons) == 6 and reasons[-1] == "cancelled"  # the first ones may be quicker than closing
    assert not psutil.pid_exists(engine.process_id)
    with pytest.raises(EdgeError) as caught:
        engine.submit(Request(PROMPT))
    assert (caught.value.message, caught.value.hint) == ("The engine is closed.", "Open the model again.")


def test_closing_ends_a_process_that_is_stopped(tiny_gguf: Path) -> None:
    engine = WorkerEngine(tiny_gguf, SETTINGS, WorkerSettings(close_seconds=0.5))
    stream = engine.submit(long_request())
    os.kill(engine.process_id, signal.SIGSTOP)
    engine.close()
    assert not psutil.pid_exists(engine.process_id)
    with pytest.raises(EdgeError, match=r"^The engine is closed\."):
        stream.result()


def test_process_ends_with_its_host_even_while_it_is_busy(tiny_gguf: Path) -> None:
    code = (
        "import time; from pathlib import Path; from edge import Engine, Request\n"
        f"engine = Engine(Path({str(tiny_gguf)!r}))\n"
        "stream = engine.submit(Request((1, 5), max_tokens=400))\n"
        "print(engine._engine.process_id, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout
        process = psutil.Process(int(host.stdout.readline()))
        host.kill()
    process.wait(timeout=30)


def test_ctrl_c_in_the_terminal_does_not_reach_the_process(tiny_gguf: Path) -> None:
    with WorkerEngine(tiny_gguf, SETTINGS) as engine:
        assert os.getpgid(engine.process_id) != os.getpgid(0)
        os.kill(engine.process_id, signal.SIGINT)
        assert engine.submit(Request(PROMPT, max_tokens=5, ignore_eos=True)).result().usage.completion_tokens == 5


# Death


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "The engine's process was ended by SIGKILL (out of memory?)."),
        (signal.SIGABRT, "The engine's process was ended by SIGABRT."),
        (signal.SIGSEGV, "The engine's process was ended by SIGSEGV."),
    ],
)
def test_death_ends_the_requests_in_flight_and_the_next_one_is_answered(
    tiny_gguf: Path, number: signal.Signals, message: str
) -> None:
    with WorkerEngine(tiny_gguf, SETTINGS) as engine:
        request = Request(PROMPT, sampling=GREEDY, max_tokens=8)
        expected = engine.submit(request).result().tokens
        first = engine.process_id
        streams = [engine.submit(long_request()) for _ in range(24)]  # the first ones may be quicker than the signal
        next(iter(streams[0]))
        os.kill(first, number)
        errors = [error for stream in streams if (error := failure_of(stream))]
        assert failure_of(streams[-1]) and len(errors) > 12
        assert {error.message for error in errors} == {message}
        assert {error.hint for error in errors} == {"Send the request again: a fresh process answers it."}
        assert engine.submit(request).result().tokens == expected
        assert engine.process_id != first
        assert not psutil.pid_exists(first)


def test_hang_ends_like_a_death(tiny_gguf: Path) -> None:
    with WorkerEngine(tiny_gguf, SETTINGS, WorkerSettings(hang_seconds=3)) as engine:
        stream = engine.submit(long_request())
        os.kill(engine.process_id, signal.SIGSTOP)
        with pytest.raises(EdgeError) as caught:
            stream.result()
        assert caught.value.message == "The engine's process stopped answering for 3 seconds and was ended."
        assert engine.text_tokens("Bees")


def test_two_engines_do_not_feel_each_others_end(tiny_gguf: Path) -> None:
    with WorkerEngine(tiny_gguf, SETTINGS) as one, WorkerEngine(tiny_gguf, SETTINGS) as other:
        stream = other.submit(Request(PROMPT, sampling=GREEDY, max_tokens=30, ignore_eos=True))
        os.kill(one.process_id, signal.SIGKILL)
        assert stream.result().usage.completion_tokens == 30
        assert one.text_tokens("Bees") == other.text_tokens("Bees")


def test_random_kills_under_load_leave_every_request_ended_and_no_process(tiny_gguf: Path) -> None:
    from bench.kill import Case, kill_under_load, outcome_lines

    outcome = kill_under_load(Case(tiny_gguf, times=8, threads=1, hang_seconds=2, start_seconds=8, seed=6))
    assert outcome.holds, "\n".join(outcome_lines(outcome))
    assert sum(outcome.kills.values()) == 8
    assert outcome.errors


# A process that goes wrong by itself


def connection_to(code: str, worker: WorkerSettings | None = None) -> WorkerConnection:
    """To a process of a few lines in place of an engine's."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return WorkerConnection(process, Path("model.gguf"), SETTINGS, worker or WorkerSettings())


ASSERTION = (
    "import os, sys; sys.stderr.write('ggml.c:12: GGML_ASSERT(a == b) failed\\n'); sys.stderr.flush(); os.abort()"
)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (ASSERTION, "was ended by SIGABRT: ggml.c:12: GGML_ASSERT(a == b) failed"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        (
            "import sys; [print(line, file=sys.stderr) for line in 'abcde']; sys.exit(7)",
            "ended with exit code 7: c / d / e",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL (out of memory?)"),
    ],
)
def test_death_while_opening_says_how_and_the_last_lines_of_the_log(code: str, message: str) -> None:
    with pytest.raises(EngineDiedError) as caught:
        connection_to(code).opened()
    assert caught.value.message == f"The engine's process {message}."


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-9, "was ended by SIGKILL (out of memory?)"),
        (-99, "was ended by signal 99"),
        (1, "ended with exit code 1"),
        (0xC0000005, "ended with exit code 0xc0000005"),  # an access violation on Windows
    ],
)
def test_end_of_a_process_is_named_as_people_know_it(code: int, text: str) -> None:
    assert exit_text(code) == text


def test_process_that_sends_rubbish_is_ended() -> None:
    connection = connection_to(
        "import sys, time; sys.stdout.write('\\0\\0\\0\\4rubbish'); sys.stdout.flush(); time.sleep(60)"
    )
    with pytest.raises(EngineDiedError, match=r"sent what cannot be read \(UnpicklingError: .*\) and was ended\."):
        connection.opened()
    assert not psutil.pid_exists(connection.process_id)


def test_process_that_never_says_a_word_is_ended() -> None:
    connection = connection_to("import time; time.sleep(60)", WorkerSettings(start_seconds=1))
    with pytest.raises(EngineDiedError, match=r"stopped answering for 1 seconds and was ended\."):
        connection.opened()


def test_process_that_lives_but_does_not_finish_a_step_is_ended() -> None:
    code = (
        "import sys, time; from edge.wire import Heartbeat, pack\n"
        "for seconds in range(60):\n"
        "    sys.stdout.buffer.write(pack([Heartbeat(float(seconds))])); sys.stdout.flush(); time.sleep(0.2)\n"
    )
    connection = connection_to(code, WorkerSettings(step_seconds=2, hang_seconds=30))
    with pytest.raises(EngineDiedError, match=r"did not finish a step within 2 seconds and was ended\."):
        connection.opened()


def test_process_that_dies_at_every_start_is_given_up(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[subprocess.Popen[bytes]] = []

    def launch_the_dying() -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        starts.append(subprocess.Popen([sys.executable, "-c", ASSERTION], stdin=pipe, stdout=pipe, stderr=pipe))
        return starts[-1]

    with WorkerEngine(tiny_gguf, SETTINGS) as engine:
        os.kill(engine.process_id, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(engine.process_id))
        monkeypatch.setattr(worker_module, "launch", launch_the_dying)
        with pytest.raises(EdgeError) as caught:
            engine.text_tokens("Bees")
        assert caught.value.message == (
            f"The engine died 3 times while it opened {tiny_gguf}. The last time: The engine's process was ended by"
            " SIGABRT: ggml.c:12: GGML_ASSERT(a == b) failed."
        )
        assert "edge verify" in caught.value.hint
        assert len(starts) == 3
        monkeypatch.undo()
        assert engine.text_tokens("Bees")


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


# The process itself


def test_errors_of_llama_cpp_reach_standard_error_and_nothing_else_standard_output(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    unknown = tmp_path / "unknown.gguf"
    unknown.write_bytes(tiny_gguf.read_bytes().replace(b"llama", b"llamx"))
    process = launch()
    assert process.stdin and process.stdout
    process.stdin.write(pack([Open(unknown, SETTINGS, heartbeat_seconds=1, hang_seconds=60)]))
    process.stdin.flush()
    answers: list[Raised] = []
    while not answers:  # only signs of life so far
        answers = [message for message in read_frame(process.stdout) if isinstance(message, Raised)]
    assert answers[0].number == OPENING
    assert "unknown model architecture: 'llamx'" in answers[0].error().message
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, b"")
    assert b"unknown model architecture: 'llamx'" in errors


def test_process_whose_host_says_nothing_ends_without_a_word() -> None:
    process = launch()
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_frozen_app_becomes_the_process_when_it_says_so_first(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the executable: its own code runs only where it was not started to serve an engine."""
    app = tiny_gguf.parent / "app"
    app.write_text(
        f"#!{sys.executable}\n"
        "from edge.worker_process import run_if_worker\n"
        "run_if_worker()\n"
        "print('the app itself')\n",
        encoding="utf-8",
    )
    app.chmod(0o755)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(app))
    with WorkerEngine(tiny_gguf, SETTINGS) as engine:
        assert psutil.Process(engine.process_id).cmdline()[-2:] == [str(app), ARGUMENT]
        assert engine.text_tokens("Bees")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([app], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == "the app itself\n"


def test_app_that_forgot_to_say_so_does_not_start_itself_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "1")
    with pytest.raises(EdgeError) as caught:
        launch()
    assert caught.value.message == "This process was started to be an engine's own, and is about to start another one."
    assert "run_if_worker()" in caught.value.hint

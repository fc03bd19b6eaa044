"""An app that PyInstaller froze, with nothing but what edge's hooks told it, answers and converts."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from convert import trial
from edge import Chat, Engine, ModelSettings, SamplingSettings, worker_launch
from tests.tiny import write_tiny_checkpoint

FROZEN = Path(__file__).parent / "frozen"
RUNTIME_HOOK = Path(worker_launch.__file__).parent / "pyinstaller/rthooks/pyi_rth_edge.py"


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both apps. PyInstaller finds the hooks as it does for a user, by their entry point."""
    out = tmp_path_factory.mktemp("frozen")
    places = ["--distpath", str(out), "--workpath", str(out / "work"), "--noconfirm"]
    command = [sys.executable, "-m", "PyInstaller", *places, str(FROZEN / "app.spec")]
    subprocess.run(command, check=True, cwd=out, env={**os.environ, "PYINSTALLER_CONFIG_DIR": str(out / "cache")})
    shutil.rmtree(out / "work")
    return out


@pytest.fixture(params=["folder/app", "app-file"])
def app(request: pytest.FixtureRequest, apps: Path) -> Path:
    return apps / str(request.param)


def run(app: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In an environment that leads to no interpreter and none of its modules."""
    environment = {"PATH": "/nowhere", "HOME": str(folder), "TMPDIR": str(folder)}
    command = [str(app), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)


def test_hooks_are_where_pyinstaller_looks_for_them() -> None:
    (folders,) = (point.load()() for point in entry_points(group="pyinstaller40") if point.value.startswith("edge."))
    assert {path.name for folder in folders for path in Path(folder).glob("hook-*.py")} == {
        "hook-convert.py",
        "hook-edge.cli.py",
        "hook-edge.py",
    }
    commands = runpy.run_path(str(Path(folders[0]) / "hook-edge.cli.py"))["hiddenimports"]
    assert all(find_spec(name) for name in commands) and "edge.serve_command" in commands


def test_frozen_app_answers_as_an_unfrozen_one_and_outlives_its_engine(
    app: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    with Engine(tiny_gguf, ModelSettings(threads=1, context_tokens=256), isolate=False) as engine:
        chat = Chat(engine, sampling=SamplingSettings(temperature=0), max_tokens=8)
        expected = repr(chat.send("Bees?").result().text)
    done = run(app, tmp_path, str(tiny_gguf))
    assert done.stdout.splitlines() == [
        f"answer: {expected}",
        f"process: {app.name} {worker_launch.ARGUMENT}",
        f"again: {expected}",
        'held: {"bee": 1}',
    ]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # what was unpacked is gone


def test_frozen_app_serves(app: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    done = run(app, tmp_path, "serve", str(tiny_gguf))
    assert (done.stdout, done.returncode) == ("served: 8\n", 0), done.stderr


def test_frozen_app_converts_and_proves(app: Path, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint("llama3", tmp_path)
    done = run(app, tmp_path, "convert", str(checkpoint), str(tmp_path / "bees.gguf"))
    assert (done.stdout, done.returncode) == ("proven: bees.gguf\n", 0), done.stderr


def test_frozen_app_says_what_is_wrong_in_words(apps: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    no_model = tmp_path / "bees.gguf"
    no_model.write_bytes(b"no model" * 9)
    done = run(apps / "folder/app", tmp_path, str(no_model))
    assert done.stdout == f"refused: {no_model} is no GGUF file: it starts with b'no m' instead of b'GGUF'.\n"
    shutil.copy(tiny_gguf, no_model)
    (tmp_path / "bees.system.prefix").write_bytes(b"no prefix")
    done = run(apps / "folder/app", tmp_path, str(no_model))
    assert done.stdout.startswith("answer: ")
    assert "UserWarning: " in done.stderr
    assert "bees.system.prefix" in done.stderr
    assert "It is not used." in done.stderr


def test_app_starts_as_itself_unless_edge_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app", "--help"])
    assert "_serve" not in runpy.run_path(str(RUNTIME_HOOK))


@pytest.mark.parametrize(
    ("argument", "module"), [(worker_launch.ARGUMENT, "edge.worker_process"), (trial.ARGUMENT, "convert.trial")]
)
def test_app_that_edge_started_becomes_its_process(argument: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def end() -> None:
        raise SystemExit(f"was {module}")

    monkeypatch.setattr(sys, "argv", ["app", argument])
    monkeypatch.setattr(f"{module}.main", end)
    with pytest.raises(SystemExit, match=f"was {module}"):
        runpy.run_path(str(RUNTIME_HOOK))

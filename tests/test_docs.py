"""The documents say what is so: examples run, commands exist, modules are described, versions are the tested ones."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.main import get_command

from edge.cli import make_app
from tests.tiny import write_tiny_checkpoint
from tools.command_reference import BEGIN, END, command_names, help_text, with_reference

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")

PYTHON_EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EDGE_LINES = re.findall(r"^\$ (.*\bedge .*)$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def reader_folder(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Path:
    """A folder as a reader of the README has it, with tiny models under the names of the demo's."""
    folder = tmp_path_factory.mktemp("reader")
    write_tiny_checkpoint("llama3", folder).rename(folder / "checkpoint")
    (folder / "demo").mkdir()
    (folder / "checkpoint").rename(folder / "demo/SmolLM2-135M-Instruct")
    shutil.copy(tiny_gguf, folder / "demo/SmolLM2-135M-Instruct-Q8_0.gguf")
    return folder


@pytest.mark.parametrize("example", PYTHON_EXAMPLES, ids=lambda example: example.split("\n")[1])
def test_examples_of_library_use_run_as_they_stand(
    example: str, reader_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(reader_folder)
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out


def test_the_readme_shows_each_use_of_the_library() -> None:
    shown = "".join(PYTHON_EXAMPLES)
    for name in ("convert_checkpoint", "Engine", "Chat", "Constraint"):
        assert name in shown


@pytest.mark.parametrize("line", EDGE_LINES)
def test_command_lines_use_commands_and_options_that_exist(line: str) -> None:
    words = shlex.split(line.partition("edge ")[2])
    commands = getattr(get_command(make_app()), "commands", {})
    command = commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words[1:] if word.startswith("--")} <= known


def test_the_reference_is_what_the_commands_print() -> None:
    reference = README.partition(BEGIN)[2].partition(END)[0]
    assert [line[4:] for line in reference.splitlines() if line.startswith("### ")] == [
        "edge",
        *(f"edge {name}" for name in command_names()),
    ]
    assert f"```text\n{help_text(['inspect'])}\n```" in reference


def test_help_is_the_same_text_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = help_text(["verify"])
    for name, value in (("COLUMNS", "200"), ("FORCE_COLOR", "1"), ("GITHUB_ACTIONS", "true"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    assert help_text(["verify"]) == plain
    assert "\x1b" not in plain
    assert plain.startswith(" Usage: edge verify ")


def test_the_reference_is_replaced_between_its_marks() -> None:
    assert with_reference(f"before\n{BEGIN}\nold\n{END}\nafter", "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"


@pytest.mark.parametrize("readme", ["no marks", f"{BEGIN} only", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_its_marks_is_refused(readme: str) -> None:
    with pytest.raises(SystemExit, match="must have these two lines once"):
        with_reference(readme, "new")


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md", "docs/backend.md"])
def test_links_to_files_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / document).parent / target).exists(), target


def test_every_module_is_described_in_the_architecture() -> None:
    modules = [path for room in ("edge", "convert", "bench") for path in (ROOT / room).rglob("*.py")]
    families = ROOT / "convert" / "families"  # described as one: the table
    names = {path.stem for path in modules if path.stem != "__init__" and path.parent != families}
    assert names <= set(re.findall(r"`([\w.-]+)\.py`", ARCHITECTURE))
    assert "`families/`" in ARCHITECTURE


def test_the_architecture_describes_no_module_that_is_gone() -> None:
    existing = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert {f"{name}.py" for name in re.findall(r"`([\w-]+)\.py`", ARCHITECTURE)} <= existing


def test_the_tested_set_is_exact_and_within_the_bounds_of_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    tested = {canonicalize_name(name): Version(pin) for name, pin in pins.items()}
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        requirement = Requirement(text)
        assert tested[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert f"\n## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert version("edge-llm") == PROJECT["version"]

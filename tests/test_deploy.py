"""What the files in deploy/ promise: which rights a service has, and what an image is made of and runs as."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from edge.cli import make_app
from edge.llama import amx

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))["services"]["edge"]
BUILD, RUN = DOCKERFILE.split("\nFROM ")[1:]

HARDENED = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateMounts": "yes",
    "PrivateDevices": "yes",
    "MemoryDenyWriteExecute": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "IPAddressDeny": "any",
    "IPAddressAllow": "localhost",
    "SystemCallArchitectures": "native",
    "Restart": "on-failure",
}


def unit() -> dict[str, list[str]]:
    """Every setting of the service with all its values; sections do not matter, no name is in two of them."""
    settings: dict[str, list[str]] = defaultdict(list)
    for line in (ROOT / "deploy/edge.service").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            settings[name].append(value)
    return settings


def instructions(stage: str, name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", stage.replace("\\\n", " "), re.MULTILINE)


def check_serve_options(words: list[str]) -> None:
    """The command is one of edge's, with options that it has."""
    assert words[0] == "serve"
    command = getattr(get_command(make_app()), "commands", {})["serve"]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(("name", "value"), HARDENED.items())
def test_service_has_no_more_rights_than_it_needs(name: str, value: str) -> None:
    assert unit()[name] == [value]


def test_service_may_make_no_privileged_calls() -> None:
    assert unit()["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]


def test_service_gets_its_key_from_systemd_alone() -> None:
    settings = unit()
    assert settings["LoadCredential"] == ["api-key:/etc/edge/api-key"]
    (command,) = settings["ExecStart"]
    assert "--api-key-file ${CREDENTIALS_DIRECTORY}/api-key" in command
    assert not any("KEY" in value for value in settings["Environment"])


def test_service_starts_a_command_that_exists_and_stops_it_no_sooner_than_it_drains() -> None:
    from edge.server.server_settings import ServerSettings

    settings = unit()
    check_serve_options(shlex.split(settings["ExecStart"][0])[1:])
    assert int(settings["TimeoutStopSec"][0]) > ServerSettings().drain_seconds
    assert COMPOSE["stop_grace_period"] == f"{settings['TimeoutStopSec'][0]}s"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_service_is_understood_and_found_little_exposed_by_systemd(tmp_path: Path) -> None:
    text = (ROOT / "deploy/edge.service").read_text(encoding="utf-8")
    path = tmp_path / "edge.service"
    path.write_text(text.replace("ExecStart=/opt/edge/bin/edge", "ExecStart=/bin/true"), encoding="utf-8")
    verified = systemd_analyze("verify", str(path))
    later = re.compile(r"Unknown key(?: name)? '(RestartSteps|RestartMaxDelaySec)' ")  # of systemd 254
    assert [line for line in verified.stderr.splitlines() if "edge.service" in line and not later.search(line)] == []
    judged = systemd_analyze("security", "--offline=true", "--threshold=15", "--no-pager", str(path))
    assert judged.returncode == 0, judged.stdout + judged.stderr


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="hadolint comes without a wheel for Windows")
def test_image_is_built_as_its_linter_advises() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "deploy/Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_image_runs_as_a_user_without_rights() -> None:
    assert instructions(RUN, "USER") == ["10001:10001"]
    assert "--uid 10001" in RUN


def test_image_starts_a_command_that_exists_and_demands_a_key() -> None:
    (words,) = (yaml.safe_load(line) for line in instructions(RUN, r"CMD"))
    check_serve_options(words)
    assert words[words.index("--api-key-file") + 1] == "/run/secrets/edge-api-key"
    assert "edge-api-key" in COMPOSE["secrets"]


def test_image_is_asked_for_its_health_at_the_port_that_it_serves() -> None:
    (check,) = instructions(RUN, "HEALTHCHECK")
    code = yaml.safe_load(check.partition("CMD ")[2])[-1]
    compile(code, "HEALTHCHECK", "exec")
    assert "http://127.0.0.1:8080/health" in code
    assert instructions(RUN, "EXPOSE") == ["8080"]


def test_image_has_llama_cpp_for_many_processors_from_a_compiler_that_gets_amx_right() -> None:
    (variables,) = re.findall(r'CMAKE_ARGS="(.*?)"', BUILD.replace("\\\n", ""))
    options = dict(option.removeprefix("-D").split("=") for option in variables.split())
    assert options["GGML_NATIVE"] == "OFF"
    assert options["GGML_BACKEND_DL"] == options["GGML_CPU_ALL_VARIANTS"] == "ON"
    assert options["CMAKE_INSTALL_BINDIR"] == "llama_cpp/lib"  # where the libraries are looked for
    gcc_of = {"bookworm": 12, "trixie": 14}
    for stage in (BUILD, RUN):
        release = re.findall(r"slim-(\w+)", stage.partition("\n")[0])[0]
        assert gcc_of[release] >= amx._FIRST_SOUND_GCC


def test_image_is_made_of_the_code_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {word for line in instructions(BUILD, "COPY") for word in line.split()[:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in kept)
    assert instructions(RUN, "COPY") == ["--from=build /opt/edge /opt/edge"]
    assert not re.search(r"^ARG|KEY=|TOKEN=|PASSWORD", DOCKERFILE, re.MULTILINE)


def test_composed_container_may_write_nowhere_and_is_reached_from_this_machine_only() -> None:
    assert COMPOSE["read_only"] is True
    assert COMPOSE["tmpfs"] == ["/tmp"]
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert COMPOSE["security_opt"] == ["no-new-privileges:true"]
    assert COMPOSE["ports"] == ["127.0.0.1:8080:8080"]
    assert all(volume.endswith(":ro") for volume in COMPOSE["volumes"])

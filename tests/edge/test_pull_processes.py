"""`edge pull` in processes of its own, against a hub on this machine: together, and killed on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.fake_hub import COMMIT
from tests.edge.hub_server import HubServer, hub_server

FILE = f"/org/model/resolve/{COMMIT}/model-Q8_0.gguf"
START = "import sys; sys.argv[0] = 'edge'; from edge.cli import main; main()"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as fake:
        yield fake


def start_pull(server: HubServer, folder: Path, *more: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(folder / "hf"), "EDGE_CACHE": str(folder / "store")}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.Popen(
        [sys.executable, "-c", START, "pull", "org/model:Q8_0", "--json", *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def model(process: subprocess.Popen[str]) -> Path:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return Path(json.loads(out)["models"][0]["path"])


def wait_until_there(path: Path, n_bytes: int) -> None:
    deadline = time.monotonic() + 60
    while not (path.is_file() and path.stat().st_size >= n_bytes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_that_pull_one_model_share_one_download(server: HubServer, tmp_path: Path) -> None:
    server.stalls_after_bytes = 100
    first = start_pull(server, tmp_path)
    wait_until_there(tmp_path / "store/hub/models--org--model/snapshots" / COMMIT / "model-Q8_0.gguf.part", 0)
    second = start_pull(server, tmp_path)
    assert second.stderr is not None
    assert second.stderr.readline() == "Another process is at work on org/model: waiting for it\n"
    server.may_go_on.set()
    paths = [model(process) for process in (first, second)]
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == server.files["model-Q8_0.gguf"]
    assert [path for path, _ in server.asked].count(FILE) == 1


def test_download_goes_on_after_its_process_was_killed(server: HubServer, tmp_path: Path) -> None:
    """With chunks as large as they are: the library writes 10 MB at a time."""
    server.files["model-Q8_0.gguf"] = os.urandom(1 << 20) * 25
    server.stalls_after_bytes = 21 << 20
    killed = start_pull(server, tmp_path)
    part = tmp_path / "store/hub/models--org--model/snapshots" / COMMIT / "model-Q8_0.gguf.part"
    wait_until_there(part, 20 << 20)
    killed.kill()
    killed.communicate()
    there_bytes = part.stat().st_size
    server.stalls_after_bytes = None
    path = model(start_pull(server, tmp_path))
    assert path.read_bytes() == server.files["model-Q8_0.gguf"]
    assert [asked for path, asked in server.asked if path == FILE] == [None, f"bytes={there_bytes}-"]
    assert not part.exists()


def test_gated_model_says_how_to_get_it(server: HubServer, tmp_path: Path) -> None:
    server.refusal = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "accept it"})
    process = start_pull(server, tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines() == [
        "error: org/model is gated: its authors want its licence accepted before it is downloaded.",
        "hint:  Accept the licence at https://huggingface.co/org/model , then log in with `hf auth login`, or put a"
        " token into HF_TOKEN.",
    ]

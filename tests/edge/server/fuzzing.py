"""Bodies that are almost right, and what a server may not keep of having answered them.

EDGE_FUZZ_BODIES says how many bodies each test sends, if not as few as fit a test.
"""

from __future__ import annotations

import copy
import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from starlette.testclient import TestClient

from edge.openai_request import KNOWN_FIELDS
from edge.server.app import create_app
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from tests.edge.server.conftest import eventually

BODIES = int(os.environ.get("EDGE_FUZZ_BODIES", "600"))
WARM_UP_BODIES = 200
GROWTH_BYTES = 16 << 20
"""Of either process, whatever the number of bodies: allocators keep some of what they were given back."""
MAX_SESSIONS = 6
POOLS = ("edge-submit", "edge-check", "asyncio")

Sound = Sequence[tuple[str, dict[str, Any]]]
"""Paths, and a body for each that is right."""
CheckError = Callable[[str, Any], None]
"""Called with a path and the JSON that an error was answered with."""

ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, -(2**63), 2**70, 1e308, 0.1, "", "a", "\0", "\U0001f600", "<|im_end|>",
    "x" * 5000, [], {}, [[]], [{}], {"a": {}}, [None], ["a", 1], {"type": "object"}, {"": ""}, "NaN",
]  # fmt: skip
SESSIONS: list[Any] = [
    "trip", "A.b-c_1", "a" * 64, *(f"s{number}" for number in range(20)),
    "", "a" * 65, "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "a\n", "é", "a" * 100_000,
    5, True, {}, ["a"],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that is inside of a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


def almost(body: Any, chance: random.Random) -> bytes:
    """A body that was changed in a few places, or in a few bytes."""
    body = copy.deepcopy(body)
    if "session" in body:
        body["session"] = copy.deepcopy(chance.choice(SESSIONS))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        paths = list(places(body))
        if not paths:
            break
        *above, last = chance.choice(paths)
        holder = body
        for key in above:
            holder = holder[key]
        match chance.randrange(4):
            case 0 | 1:
                holder[last] = copy.deepcopy(chance.choice(ODD))
            case 2:
                del holder[last]
            case 3:
                body[chance.choice(KNOWN_FIELDS)] = copy.deepcopy(chance.choice(ODD))
    content = bytearray(json.dumps(body).encode())
    if chance.random() < 0.1:
        for _ in range(3):
            content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def check_answers(
    client: TestClient, sound: Sound, bodies: int, chance: random.Random, check_error: CheckError
) -> None:
    """Send bodies, and see that none of them is the server's fault and each is answered in its form."""
    answered = 0
    for _ in range(bodies):
        path, body = chance.choice(sound)
        content = almost(body, chance)
        response = client.post(path, content=content)
        assert response.status_code < 500, (path, content, response.text)
        if response.status_code >= 400:
            assert "Traceback" not in response.text
            check_error(path, response.json())
        answered += response.status_code == 200
    assert answered > bodies // 10  # else it is only said what is wrong with them
    assert client.get("/health").status_code == 200


@dataclass(frozen=True)
class Footprint:
    """What the processes of a server and its engine hold."""

    threads: int
    """Those of pools aside: these make theirs when they first need them, and as many as they may have."""
    files: tuple[int, ...]
    memory_bytes: tuple[int, ...]

    @classmethod
    def now(cls) -> Footprint:
        this = psutil.Process()
        processes = [this, *this.children(recursive=True)]
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith(POOLS)]
        files = tuple(process.num_fds() for process in processes)
        return cls(len(threads), files, tuple(process.memory_info().rss for process in processes))


def check_engine(
    path: Path, settings: ModelSettings, folder: Path, sound: Sound, seed: int, check_error: CheckError
) -> None:
    """Send bodies to a real engine, and see that nothing is left of them but the sessions that may be."""
    server_settings = ServerSettings(
        max_answer_tokens=8, sessions_folder=folder, max_sessions=MAX_SESSIONS, max_session_bytes=1 << 20
    )
    app = create_app(ModelPool([source_of("fuzzed", path, settings)], open_model), server_settings)
    chance = random.Random(seed)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        check_answers(client, sound, WARM_UP_BODIES, chance, check_error)
        eventually(lambda: is_idle(client))
        before = Footprint.now()
        check_answers(client, sound, BODIES, chance, check_error)
        eventually(lambda: is_idle(client))
        after = Footprint.now()
    assert app.state.doors.open_requests == 0
    assert after.threads <= before.threads
    assert after.files == before.files
    grown = [now - then for now, then in zip(after.memory_bytes, before.memory_bytes, strict=True)]
    assert max(grown) < GROWTH_BYTES, grown
    assert len(list(folder.iterdir())) <= MAX_SESSIONS


def is_idle(client: TestClient) -> bool:
    lines = client.get("/metrics").text.splitlines()
    idle = ["edge_sequences_busy{", "edge_completions_waiting ", "edge_completions_running "]
    found = [line.split()[-1] for line in lines if line.startswith(tuple(idle))]
    return found == ["0.0"] * 3

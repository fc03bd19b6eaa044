"""Batches for tests: their lines, and what an output file says of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge.batch_input import Line, read_lines


def line_text(custom_id: str, content: str = "Hello", **fields: Any) -> str:
    """A line that asks for an answer to `content`; other fields are those of its body."""
    body = {"messages": [{"role": "user", "content": content}], **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def batch_of(*texts: str) -> list[Line]:
    return read_lines("\n".join(texts).encode(), "in.jsonl")


def write_batch(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def answers_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]]


def status(answer: dict[str, Any]) -> int:
    return int(answer["response"]["status_code"])


def content_of(answer: dict[str, Any]) -> str:
    return str(answer["response"]["body"]["choices"][0]["message"]["content"])

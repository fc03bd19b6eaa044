"""A small app to be frozen: answers with a model, whose process it kills in between, serves it, or converts one."""

import json
import os
import signal
import sys
import urllib.request
from pathlib import Path

import psutil

from convert import convert_checkpoint
from edge import Chat, Constraint, EdgeError, Engine, Message, ModelSettings, Request, SamplingSettings, Server

AS_JSON = {"type": "object", "properties": {"bee": {"const": 1}}, "required": ["bee"], "additionalProperties": False}


def answer(path: Path) -> None:
    with Engine(path, ModelSettings(threads=1, context_tokens=256)) as engine:
        chat = Chat(engine, sampling=SamplingSettings(temperature=0), max_tokens=8)
        print("answer:", repr(chat.send("Bees?").result().text))
        (worker,) = psutil.Process().children()
        print("process:", Path(worker.exe()).name, *worker.cmdline()[1:])
        os.kill(worker.pid, signal.SIGKILL)
        print("again:", repr(ask_again(chat)))
        prompt = engine.chat_tokens([Message("user", "Bees?")])
        print("held:", engine.submit(Request(prompt, constraint=Constraint.json_schema(AS_JSON))).result().text)


def ask_again(chat: Chat) -> str:
    """A question right after the kill may still be lost with the process; the next one starts another."""
    chat.clear()
    try:
        return chat.send("Bees?").result().text
    except EdgeError:
        return chat.send("Bees?").result().text


def serve(path: Path) -> None:
    with Server(path, ModelSettings(threads=1, context_tokens=256)) as server:
        body = {"prompt": "Bees?", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {server.key}"}
        request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            print("served:", json.load(answer)["usage"]["completion_tokens"])


def convert(checkpoint: Path, out: Path) -> None:
    for path in convert_checkpoint(checkpoint, ["Q8_0"], out):
        print("proven:", path.name)


try:
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    else:
        answer(Path(sys.argv[1]))
except EdgeError as error:
    print("refused:", error.message)

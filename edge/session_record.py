"""What the file of a session says: which model it was said with, what was said, and how answers were sampled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.branches import Branches, Line, shared_messages
from edge.chat import Conversation
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.prefix_identity import model_digest, template_digest
from edge.prompt import Message
from edge.settings import SamplingSettings

_FORMAT = 1


@dataclass(frozen=True)
class SessionModel:
    """The model of a session: how it was asked for, and by what it is known again."""

    reference: str
    quantization: str | None
    file_name: str
    digest: str
    template: str

    @classmethod
    def of(cls, path: Path, reference: str, quantization: str | None) -> SessionModel:
        """The one at `path`, which a person asked for by `reference`."""
        file = read_gguf(path)
        given = Path(reference).expanduser()
        reference = str(given.absolute()) if given.exists() else reference
        return cls(reference, quantization, file.path.name, model_digest(file), template_digest(file.metadata))


@dataclass(frozen=True)
class SessionRecord:
    """What NAME.json says."""

    model: SessionModel
    conversation: Conversation
    sampling: SamplingSettings
    created: str
    updated: str
    """Times in UTC, as ISO 8601 has them."""

    def to_json(self) -> str:
        said = self.conversation
        document = {
            "format": _FORMAT,
            "created": self.created,
            "updated": self.updated,
            "model": asdict(self.model),
            "sampling": asdict(self.sampling),
            "system": said.system,
            "messages": [asdict(message) for message in said.messages],
            "left_out": said.left_out,
            "tokens": said.tokens,
            "branches": {
                "position": said.branches.position,
                "others": [_branch_document(said.messages, line) for line in said.branches.others],
            },
        }
        return json.dumps(document, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> SessionRecord:
        """ValueError, TypeError, KeyError, RecursionError or EdgeError for what is not the document of one."""
        document: Any = json.loads(text)
        if document["format"] != _FORMAT:
            raise ValueError(f"its format is {document['format']!r}")
        messages = _messages(document["messages"])
        system, left_out, tokens = document["system"], document["left_out"], tuple(document["tokens"])
        if type(left_out) is not int or not 0 <= left_out <= len(messages):
            raise ValueError(f"left_out is {left_out!r}")
        if any(type(token) is not int for token in tokens):
            raise ValueError("tokens are not whole numbers")
        model = document["model"]
        names = {name: _text(model[name]) for name in ("reference", "file_name", "digest", "template")}
        quantization = model["quantization"]
        return cls(
            model=SessionModel(quantization=None if quantization is None else _text(quantization), **names),
            conversation=Conversation(
                messages,
                None if system is None else _text(system),
                left_out,
                tokens,
                _branches(document.get("branches"), messages),
            ),
            sampling=_sampling(document["sampling"]),
            created=_text(document["created"]),
            updated=_text(document["updated"]),
        )


def read_record(path: Path) -> SessionRecord:
    """What a session's file says. EdgeError if it is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the path.") from error
    try:
        return SessionRecord.from_json(content.decode("utf-8", "surrogatepass"))
    except KeyError as error:
        reason = f"it lacks {error}"
    except EdgeError as error:
        reason = error.message.rstrip(".")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error)
    raise EdgeError(f"The session file {path} is damaged: {reason}.", hint="Delete it to begin the session again.")


def _messages(documents: Any) -> Line:
    return tuple(Message(_text(each["role"]), _text(each["content"])) for each in documents)  # type: ignore[arg-type]


def _branch_document(current: Sequence[Message], line: Line) -> dict[str, object]:
    """A line by where it parts from the current one, and how it goes on from there."""
    shared = shared_messages(current, line)
    return {"shared": shared, "messages": [asdict(message) for message in line[shared:]]}


def _branches(document: Any, current: Line) -> Branches:
    """None where a file is from before there were any."""
    if document is None:
        return Branches()
    others = []
    for each in document["others"]:
        shared = each["shared"]
        if type(shared) is not int or not 0 <= shared <= len(current):
            raise ValueError(f"a branch shares {shared!r} messages")
        others.append((*current[:shared], *_messages(each["messages"])))
    position = document["position"]
    if type(position) is not int or not 0 <= position <= len(others):
        raise ValueError(f"the place of a branch is {position!r}")
    return Branches(tuple(others), position)


def _sampling(document: Any) -> SamplingSettings:
    lists: dict[str, object] = {
        "dry_sequence_breakers": tuple(map(_text, document["dry_sequence_breakers"])),
        "logit_bias": tuple((int(token), float(bias)) for token, bias in document["logit_bias"]),
    }
    return SamplingSettings(**{**document, **lists})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where a text should be")
    return value

"""Prefix files: what is written is read again, and what is not sound is refused before native code sees it."""

from __future__ import annotations

import json
import stat
import struct
import zlib
from pathlib import Path

import pytest

from edge.errors import EdgeError
from edge.prefix_file import MAGIC, VERSION, open_prefix, write_prefix
from edge.prefix_identity import PrefixIdentity

IDENTITY = PrefixIdentity(
    model="gemma.gguf 0123", adapters="", cache="keys F16, values F16, flash attention auto", library="0.16 (abc)"
)
TOKENS = (2, 106, 1645, 108)
STATE = bytes(range(256)) * 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chat.prefix"
    write_prefix(path, IDENTITY, TOKENS, STATE)
    return path


def header_of(content: bytes) -> bytes:
    (header_bytes,) = struct.unpack_from("<I", content, 12)
    return content[20 : 20 + header_bytes]


def with_header(content: bytes, header: bytes) -> bytes:
    """The file with another header, whose checksum is right."""
    body = content[20 + len(header_of(content)) :]
    return struct.pack("<8sIII", MAGIC, VERSION, len(header), zlib.crc32(header)) + header + body


def with_fields(content: bytes, **changed: object) -> bytes:
    """The file with some fields of its header changed."""
    return with_header(content, json.dumps({**json.loads(header_of(content)), **changed}).encode())


def refusal(path: Path, content: bytes) -> str:
    """What is said of a file with this content, without its name."""
    path.write_bytes(content)
    with pytest.raises(EdgeError) as caught:
        open_prefix(path).read_state()
    assert caught.value.hint == "Delete it: what it holds is computed again."
    return caught.value.message.removeprefix(f"{path} ")


def test_what_was_written_is_read_again(path: Path) -> None:
    prefix = open_prefix(path)
    assert (prefix.identity, prefix.tokens, prefix.read_state()) == (IDENTITY, TOKENS, STATE)


def test_the_layout_is_the_documented_one(path: Path) -> None:
    header = json.dumps(
        {
            "identity": IDENTITY.to_json(),
            "token_count": 4,
            "state_bytes": 1280,
            "tokens_crc32": zlib.crc32(struct.pack("<4i", *TOKENS)),
            "state_crc32": zlib.crc32(STATE),
        }
    ).encode()
    head = b"EDGE-KV\n" + struct.pack("<III", 1, len(header), zlib.crc32(header))
    assert path.read_bytes() == head + header + struct.pack("<4i", *TOKENS) + STATE


def test_only_its_owner_may_read_it(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_writing_replaces_the_file_and_leaves_nothing_else(path: Path) -> None:
    write_prefix(path, IDENTITY, TOKENS[:2], b"shorter")
    assert open_prefix(path).read_state() == b"shorter"
    assert list(path.parent.iterdir()) == [path]


def test_place_that_cannot_be_written_is_named(path: Path) -> None:
    with pytest.raises(EdgeError, match=r"inside\.prefix cannot be written: ") as caught:
        write_prefix(path / "inside.prefix", IDENTITY, TOKENS, STATE)
    assert caught.value.hint == "Check the folder and the free space."


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"none\.prefix cannot be read: No such file"):
        open_prefix(tmp_path / "none.prefix")


# A hostile file for each invariant


def test_file_shorter_than_the_smallest_header_is_refused(path: Path) -> None:
    assert refusal(path, b"EDGE") == "is no prefix file: it has 4 bytes, fewer than the smallest header."


def test_other_file_is_refused_by_its_magic(path: Path) -> None:
    assert refusal(path, b"GGUF" + bytes(60)) == "is no prefix file: it starts with b'GGUF\\x00\\x00\\x00\\x00'."


def test_other_version_is_refused_with_the_known_one(path: Path) -> None:
    content = path.read_bytes()
    other = content[:8] + struct.pack("<I", 7) + content[12:]
    assert refusal(path, other) == "has version 7 of the format; version 1 can be read."


def test_header_larger_than_any_is_not_read(path: Path) -> None:
    content = path.read_bytes()
    other = content[:12] + struct.pack("<I", 0xFFFFFFFF) + content[16:]
    assert refusal(path, other) == "is damaged: it claims a header of 4294967295 bytes."


def test_file_that_ends_in_its_header_is_refused(path: Path) -> None:
    content = path.read_bytes()
    missing = len(header_of(content)) - 10
    assert refusal(path, content[:30]) == f"is cut off: {missing} bytes are missing."


def test_changed_header_is_noticed(path: Path) -> None:
    content = path.read_bytes().replace(b'"token_count": 4', b'"token_count": 3')
    assert refusal(path, content) == "is damaged: the checksum of its header is wrong."


@pytest.mark.parametrize("header", [b"{", b"[]", b"\xff", b"{}", b'{"identity": {}}', b"[" * 60000])
def test_header_without_an_identity_is_refused(path: Path, header: bytes) -> None:
    content = with_header(path.read_bytes(), header)
    assert refusal(path, content) == "is damaged: its header does not say what it was made with."


@pytest.mark.parametrize("value", [-1, 1.5, "4", None, True])
@pytest.mark.parametrize("name", ["token_count", "state_bytes", "tokens_crc32", "state_crc32"])
def test_count_that_is_none_is_refused(path: Path, name: str, value: object) -> None:
    content = with_fields(path.read_bytes(), **{name: value})
    assert refusal(path, content) == f"is damaged: its header gives {value!r} as {name}."


def test_sizes_must_add_up_to_the_file(path: Path) -> None:
    content = path.read_bytes()
    size = len(content)
    assert refusal(path, content[:-1]) == f"is damaged: it has {size - 1} bytes instead of {size}."
    assert refusal(path, content + b"\0") == f"is damaged: it has {size + 1} bytes instead of {size}."
    huge = with_fields(content, token_count=1 << 60)
    assert refusal(path, huge).startswith(f"is damaged: it has {len(huge)} bytes instead of 46116860184273")


def test_changed_token_is_noticed(path: Path) -> None:
    content = path.read_bytes().replace(struct.pack("<i", 1645), struct.pack("<i", 1646))
    assert refusal(path, content) == "is damaged: the checksum of its tokens is wrong."


@pytest.mark.parametrize("tokens", [(), (2, -1)])
def test_tokens_that_none_could_have_are_refused(path: Path, tokens: tuple[int, ...]) -> None:
    write_prefix(path, IDENTITY, tokens, STATE)
    assert refusal(path, path.read_bytes()) == "is damaged: it has no state, no tokens, or negative ones."


def test_empty_state_is_refused(path: Path) -> None:
    write_prefix(path, IDENTITY, TOKENS, b"")
    assert refusal(path, path.read_bytes()) == "is damaged: it has no state, no tokens, or negative ones."


def test_changed_state_is_noticed_when_it_is_read(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-700] ^= 1
    path.write_bytes(content)
    assert open_prefix(path).tokens == TOKENS
    assert refusal(path, bytes(content)) == "is damaged: the checksum of its state is wrong."


def test_file_that_shrinks_after_it_was_opened_is_noticed(path: Path) -> None:
    prefix = open_prefix(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(EdgeError, match="is cut off: 5 bytes are missing"):
        prefix.read_state()


# What a state was made with


@pytest.mark.parametrize(
    ("made_with", "reason"),
    [
        ({"model": "llama.gguf 4567"}, "another model: llama.gguf, not gemma.gguf"),
        ({"adapters": "pirate.gguf × 0.5 89ab"}, "the adapter pirate.gguf × 0.5, not with no adapter"),
        (
            {"cache": "keys Q8_0, values F16, flash attention on"},
            "another kind of KV cache: keys Q8_0, values F16, flash attention on, not " + IDENTITY.cache,
        ),
        ({"weights": "as they are in the file"}, "weights as they are in the file, not repacked"),
        ({"library": "0.15 (old)"}, "another build of llama.cpp: 0.15 (old), not 0.16 (abc)"),
    ],
)
def test_state_made_with_something_else_is_refused_and_says_what(
    path: Path, made_with: dict[str, str], reason: str
) -> None:
    write_prefix(path, PrefixIdentity(**{**IDENTITY.to_json(), **made_with}), TOKENS, STATE)
    with pytest.raises(EdgeError) as caught:
        open_prefix(path).check_identity(IDENTITY)
    assert caught.value.message == f"{path} was made with {reason}."
    assert caught.value.hint == "Open the model as it was then, or delete the file: what it holds is computed again."


def test_the_name_of_a_model_is_no_part_of_what_it_is(path: Path) -> None:
    renamed = PrefixIdentity(**{**IDENTITY.to_json(), "model": "renamed file.gguf 0123"})
    open_prefix(path).check_identity(renamed)

"""Who may use the server: names it is reached under, web pages that may call it, and keys.

Three things a stranger could try: have a browser on this machine call the server from a page of his (checked by
Origin), do so under a name of his that leads to this address (DNS rebinding, checked by Host), or find the port open in
a network (checked by key).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path

from edge.errors import EdgeError
from edge.server.errors import RefusedError
from edge.server.server_settings import ServerSettings, address_of, is_loopback

_KEY_BYTES = 24
_WILDCARDS = ("", "0.0.0.0", "::")

Headers = Mapping[bytes, bytes]


def make_key() -> str:
    """A key that nobody guesses."""
    return f"edge-{secrets.token_urlsafe(_KEY_BYTES)}"


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one on each line. EdgeError if there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise EdgeError(f"The key file {path} cannot be read: {reason}.", hint="Check the path.") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise EdgeError(f"The key file {path} is empty.", hint="Write a key on its first line.")
    return keys


class Access:
    """The rules of a server, made once from its settings."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._names = {settings.host.lower(), *(name.lower() for name in settings.allowed_hosts)}
        self._origins = frozenset(settings.allowed_origins)
        self._key_digests = [_digest(key.encode()) for key in settings.api_keys]

    @property
    def needs_key(self) -> bool:
        return bool(self._key_digests)

    def check_host(self, headers: Headers) -> None:
        """RefusedError if the server is addressed by a name that is not its own.

        Addresses are let through where the server is bound to other machines' view: no name leads to them by itself.
        """
        host = host_name(headers.get(b"host", b"").decode("latin-1"))
        if is_loopback(host) or host in self._names:
            return
        if self._settings.host in _WILDCARDS and address_of(host) is not None:
            return
        raise RefusedError(
            f"The server is not known as {host[:100]!r}.",
            hint="If that is its name, start it with --allowed-host.",
            status=403,
            code="host_not_allowed",
        )

    def check_origin(self, headers: Headers) -> str | None:
        """RefusedError for a browser that shows a page of another host; gives the origin that an answer may go to."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin:
            return None
        if origin in self._origins:
            return origin
        host = headers.get(b"host", b"").decode("latin-1")
        if origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return None  # a page of our own
        raise RefusedError(
            f"Web pages of {origin[:100]!r} may not use this server.",
            hint="If they shall, start it with --allowed-origin.",
            status=403,
            code="origin_not_allowed",
        )

    def check_key(self, headers: Headers) -> str:
        """RefusedError without one of the keys, in the header of OpenAI's clients or of Anthropic's.

        Gives the key's digest, by which what belongs to it is told apart; "" where no key is asked for.
        """
        if not self.needs_key:
            return ""
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if given and self._is_key(given):
            return _digest(given).hex()
        raise RefusedError(
            "The API key is wrong." if given else "An API key is needed.",
            hint="Send it as Authorization: Bearer KEY.",
            status=401,
            code="invalid_api_key",
        )

    def _is_key(self, given: bytes) -> bool:
        """Compares digests, all of them and to their ends: the time it takes tells nothing of the keys."""
        digest = _digest(given)
        matches = [hmac.compare_digest(digest, known) for known in self._key_digests]
        return any(matches)


def host_name(header: str) -> str:
    """A Host header without its port, in lower case."""
    header = header.strip().lower()
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

"""What a server binds to, whom it serves and how much of everything a request may have."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from edge.errors import EdgeError


@dataclass(frozen=True)
class ServerSettings:
    """The defaults serve one person's own programs on the same machine, and nobody else."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0: one that is free."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Each request has to carry one of them; without any, everyone who reaches the port is served."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names under which the server is reached, as the Host header gives them, without a port."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages of other hosts that may use the server from a browser, such as `https://app.example`."""
    max_body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    """Within which a request has to have arrived."""
    max_messages: int = 2000
    max_choices: int = 16
    """Completions of one request, those of all its prompts together."""
    max_inputs: int = 2048
    """Texts to embed in one request."""
    max_answer_tokens: int | None = None
    """Of one completion; None: as many as the context holds."""
    answer_seconds: float = 1800.0
    """After which an answer ends with what there is."""
    max_open_requests: int = 512
    """At once, those that wait for the engine included; one more is refused."""
    drain_seconds: float = 60.0
    """For running requests to finish, once the server is asked to end."""
    sessions_folder: Path | None = None
    """Where what was computed for sessions is kept over a restart; None: sessions end with the server."""
    max_sessions: int = 64
    max_session_bytes: int = 4 << 30
    """Of all their files together."""
    logs_prompts: bool = False
    """Whether the log shows what is asked. It is private, so that it does not unless a person wants it."""

    def __post_init__(self) -> None:
        limits = (
            ("port", 0 <= self.port <= 65535, "between 0 (one that is free) and 65535"),
            ("max_body_bytes", self.max_body_bytes >= 1, "at least 1"),
            ("body_seconds", self.body_seconds > 0 and isfinite(self.body_seconds), "above 0"),
            ("max_messages", self.max_messages >= 1, "at least 1"),
            ("max_choices", self.max_choices >= 1, "at least 1"),
            ("max_inputs", self.max_inputs >= 1, "at least 1"),
            ("max_answer_tokens", self.max_answer_tokens is None or self.max_answer_tokens >= 1, "at least 1"),
            ("answer_seconds", self.answer_seconds > 0 and isfinite(self.answer_seconds), "above 0"),
            ("max_open_requests", self.max_open_requests >= 1, "at least 1"),
            ("max_sessions", self.max_sessions >= 1, "at least 1"),
            ("max_session_bytes", self.max_session_bytes >= 0, "at least 0"),
            ("drain_seconds", self.drain_seconds >= 0, "at least 0"),
        )
        for name, holds, rule in limits:
            if not holds:
                raise EdgeError(f"{name} is {getattr(self, name)}.", hint=f"{name} must be {rule}.")
        if any(len(key) < 1 or not key.isascii() or not key.isprintable() for key in self.api_keys):
            raise EdgeError(
                "An API key is empty or holds characters that no header can carry.",
                hint="Use letters and digits, as many as are hard to guess.",
            )
        for origin in self.allowed_origins:
            _check_origin(origin)

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address stands for this machine only."""
    if host.lower() == "localhost":
        return True
    address = address_of(host)
    return address is not None and address.is_loopback


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is written as; None if it is a name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _check_origin(origin: str) -> None:
    scheme, separator, rest = origin.partition("://")
    if origin != "null" and (
        not separator or scheme not in ("http", "https", "app", "tauri") or not rest or "/" in rest
    ):
        raise EdgeError(
            f"{origin!r} is no origin of web pages.", hint="Write scheme, host and port only: https://app.example:8443"
        )

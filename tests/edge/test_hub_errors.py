"""What each failure of the hub says, and what to do about it."""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Any

import pytest
from huggingface_hub import errors

from edge.errors import EdgeError
from edge.hub_errors import errors_for_people

httpx: Any = import_module(errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])  # httpx, or its successor


def answered(kind: Any, status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))
    error: Exception = kind(f"{status} from the hub", response=response)
    return error


FAILURES: dict[str, tuple[Exception, str, str]] = {
    "gated": (
        answered(errors.GatedRepoError, 403),
        "org/model is gated",
        "Accept the licence at https://huggingface.co/org/model , then log in with `hf auth login`, or put a token"
        " into HF_TOKEN.",
    ),
    "not found": (answered(errors.RepositoryNotFoundError, 404), "There is no model org/model", "Check the spelling"),
    "no such commit": (
        answered(errors.RevisionNotFoundError, 404),
        "org/model no longer holds what is wanted of it: 404 from the hub",
        "without --lock",
    ),
    "no such file": (
        answered(errors.RemoteEntryNotFoundError, 404),
        "org/model no longer holds what is wanted of it",
        "taken it away",
    ),
    "disabled": (answered(errors.DisabledRepoError, 403), "org/model has been disabled", "for the reason"),
    "bad token": (answered(errors.HfHubHTTPError, 401), "with your access token (status 401)", "hf auth login"),
    "forbidden": (answered(errors.HfHubHTTPError, 403), "with your access token (status 403)", "hf auth login"),
    "rate": (answered(errors.HfHubHTTPError, 429), "limits the rate of your requests", "Wait some minutes"),
    "broken": (answered(errors.HfHubHTTPError, 503), "answered with status 503", "Try again"),
    "no network": (
        errors.HTTPError("getaddrinfo failed"),  # type: ignore[attr-defined]
        "cannot be reached (HTTPError: getaddrinfo failed)",
        "proxy",
    ),
    "disk full": (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        "The disk is full: org/model cannot be downloaded any further (No space left on device).",
        "Free some space, for example with `edge rm`, and run the same command again: it goes on from there.",
    ),
    "not writable": (
        OSError(errno.EACCES, os.strerror(errno.EACCES)),
        "org/model cannot be downloaded: Permission denied.",
        "EDGE_CACHE",
    ),
    "cut short": (
        OSError("Consistency check failed: file should be of size 9 but has size 5 (x).\nmore"),
        "org/model cannot be downloaded: Consistency check failed: file should be of size 9 but has size 5 (x).",
        "run the same command again",
    ),
    "not local": (
        errors.LocalEntryNotFoundError("An error happened while trying to locate the files\nmore"),
        "cannot be reached (An error happened while trying to locate the files)",
        "network connection",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_says_what_happened_and_what_to_do(name: str) -> None:
    error, message, hint = FAILURES[name]
    with pytest.raises(EdgeError) as caught, errors_for_people("org/model"):
        raise error
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_refusal_stays_the_reason_when_the_local_copy_is_incomplete() -> None:
    with pytest.raises(EdgeError, match="org/model is gated"), errors_for_people("org/model"):
        raise errors.LocalEntryNotFoundError("incomplete") from FAILURES["gated"][0]

"""Whatever huggingface_hub raises, as an error that says what happened and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge.errors import EdgeError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


@contextlib.contextmanager
def errors_for_people(repository: str) -> Iterator[None]:
    """Everything that huggingface_hub raises, as an EdgeError that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except HfHubHTTPError as error:
        raise _refusal(repository, error) from error
    except HFValidationError as error:
        raise EdgeError(f"{repository!r} cannot be the name of a model: {error}", hint="Check the spelling.") from error
    except HTTPError as error:
        raise _unreachable(repository, f"{type(error).__name__}: {error}") from error
    except OSError as error:
        raise _local_error(repository, error) from error


def _refusal(repository: str, error: HfHubHTTPError) -> EdgeError:
    """What the hub meant by its status code."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError):
        return EdgeError(
            f"{repository} is gated: its authors want its licence accepted before it is downloaded.",
            hint=f"Accept the licence at {page} , then log in with `hf auth login`, or put a token into HF_TOKEN.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return EdgeError(
            f"There is no model {repository} on the Hugging Face hub, or it is private.",
            hint="Check the spelling; for a private model, log in first with: hf auth login",
        )
    if isinstance(error, RevisionNotFoundError | EntryNotFoundError):
        return EdgeError(
            f"{repository} no longer holds what is wanted of it: {_first_line(error)}.",
            hint="Its authors have taken it away. Pull the model without --lock to see what there is now.",
        )
    if isinstance(error, DisabledRepoError):
        return EdgeError(f"{repository} has been disabled by the hub.", hint=f"See {page} for the reason.")
    if status in (401, 403):
        return EdgeError(
            f"The Hugging Face hub refuses {repository} with your access token (status {status}).",
            hint="Log in again with: hf auth login",
        )
    if status == 429:
        return EdgeError(
            "The Hugging Face hub limits the rate of your requests (status 429).",
            hint="Wait some minutes; logging in raises the limit: hf auth login",
        )
    return EdgeError(
        f"The Hugging Face hub answered with status {status} for {repository}.", hint="Try again in some minutes."
    )


def _local_error(repository: str, error: OSError) -> EdgeError:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error.__cause__, HfHubHTTPError):
        return _refusal(repository, error.__cause__)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EdgeError(
            f"The disk is full: {repository} cannot be downloaded any further ({error.strerror}).",
            hint="Free some space, for example with `edge rm`, and run the same command again: it goes on from there.",
        )
    if not isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
        return EdgeError(
            f"{repository} cannot be downloaded: {error.strerror or _first_line(error)}.",
            hint="Check the permissions of the cache folder (EDGE_CACHE), then run the same command again.",
        )
    if constants.HF_HUB_OFFLINE:
        return EdgeError(
            f"{repository} is not on this machine, or not all of it, and HF_HUB_OFFLINE forbids to download it.",
            hint="Run once without HF_HUB_OFFLINE, or give the path of a .gguf file.",
        )
    return _unreachable(repository, _first_line(error.__cause__ or error))


def _unreachable(repository: str, reason: str) -> EdgeError:
    return EdgeError(
        f"The Hugging Face hub cannot be reached ({reason}) and {repository} is not on this machine, or not all of it.",
        hint="Check the network connection and the proxy settings; a model that was downloaded once works without.",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".:")

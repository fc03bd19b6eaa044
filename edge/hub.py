"""The Hugging Face hub through huggingface_hub: what a repository holds, and its files on this disk.

The one place that may use the network. Knows which files of a repository are wanted; converting them is for
`edge.models`. Source: huggingface_hub's documentation of `snapshot_download` and of its environment variables.
"""

from __future__ import annotations

import contextlib
import glob
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge.errors import EdgeError
from edge.gguf_split import parse_part_name

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

# The quantizations of a repository's GGUF files in the order in which they are taken when none is asked for
PREFERRED_QUANTIZATIONS = (
    "Q4_K_M", "Q8_0", "Q5_K_M", "Q6_K", "Q4_K_S", "Q5_K_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
    "Q3_K_M", "BF16", "F16", "F32",
)  # fmt: skip
CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_SHARD_NAME = re.compile(r"(?!consolidated)[^/]+-\d+-of-\d+\.safetensors")
_SPLIT_GGUF_NAME = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_QUANTIZATION_IN_NAME = re.compile(r"(?:^|[-._/])(I?Q\d\w*|TQ\d_\d|MXFP4\w*|B?F16|F32)(?=[-./])", re.IGNORECASE)
_NOT_A_MODEL = ("mmproj", "imatrix")  # parts of names of GGUF files that go beside a model


@dataclass(frozen=True)
class RepositoryFiles:
    """The names of a repository's files, or of those that are on this disk when the hub cannot be reached."""

    names: list[str]
    is_local_copy: bool = False


class Hub(Protocol):
    """What `edge.models` asks of a hub. Both methods raise EdgeError, and nothing else that a person must see."""

    def files(self, repository: str) -> RepositoryFiles:
        """What there is to choose from."""
        ...

    def download(self, repository: str, names: Sequence[str]) -> Path:
        """A directory that holds these files of the repository; what is there already is not fetched again."""
        ...


class HuggingFaceHub:
    """The real hub. huggingface_hub is imported at the first use: it takes longer than the rest of edge."""

    def files(self, repository: str) -> RepositoryFiles:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

        with _errors_for_people(repository):
            try:
                # One request, which fails at once without a network; `list_repo_files` would try for half a minute
                return RepositoryFiles([file.rfilename for file in HfApi().model_info(repository).siblings or []])
            except (OfflineModeIsEnabled, HTTPError) as error:
                is_refusal = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
                folder = None if is_refusal else _local_snapshot(repository)
                if folder is None:
                    raise
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return RepositoryFiles(names, is_local_copy=True)

    def download(self, repository: str, names: Sequence[str]) -> Path:
        from huggingface_hub import snapshot_download

        with _errors_for_people(repository):
            folder = Path(snapshot_download(repository, allow_patterns=[glob.escape(name) for name in names]))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise EdgeError(
                f"The local copy of {repository} lacks {missing[0]}, and the hub cannot be reached.",
                hint="Try again with a network connection, and without HF_HUB_OFFLINE, to download the rest.",
            )
        return folder


def _local_snapshot(repository: str) -> Path | None:
    """The folder of what has been downloaded of the repository, which may be a part of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None


@contextlib.contextmanager
def _errors_for_people(repository: str) -> Iterator[None]:
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
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RepositoryNotFoundError

    status = error.response.status_code
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError):
        return EdgeError(
            f"{repository} is gated: its authors want its licence accepted before it is downloaded.",
            hint=f"Accept the licence at {page} , then log in with: hf auth login",
        )
    if isinstance(error, RepositoryNotFoundError):
        return EdgeError(
            f"There is no model {repository} on the Hugging Face hub, or it is private.",
            hint="Check the spelling; for a private model, log in first with: hf auth login",
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
    if not isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
        return EdgeError(
            f"{repository} cannot be downloaded: {error.strerror or error}.",
            hint="Check the free space and the permissions of the hub's cache folder (HF_HOME).",
        )
    if constants.HF_HUB_OFFLINE:
        return EdgeError(
            f"{repository} is not on this machine, or not all of it, and HF_HUB_OFFLINE forbids to download it.",
            hint="Run once without HF_HUB_OFFLINE, or give the path of a .gguf file.",
        )
    return _unreachable(repository, str(error.__cause__ or error).partition("\n")[0])


def _unreachable(repository: str, reason: str) -> EdgeError:
    return EdgeError(
        f"The Hugging Face hub cannot be reached ({reason}) and {repository} is not on this machine, or not all of it.",
        hint="Check the network connection and the proxy settings; a model that was downloaded once works without.",
    )


# Which files of a repository are wanted


def choose_gguf(repository: str, names: Sequence[str], quantization: str | None) -> list[str]:
    """The GGUF file of that quantization, or of the first preferred one; its parts in order, if it is split.

    Empty when there is no such file.
    """
    by_quantization = gguf_by_quantization(names)
    if quantization is None:
        quantization = next((name for name in PREFERRED_QUANTIZATIONS if name in by_quantization), None)
        if quantization is None and len(by_quantization) == 1:
            quantization = next(iter(by_quantization))
    files = by_quantization.get(quantization or "", [])
    if not files:
        return []
    wanted = _parts(files[0])
    if others := [name for name in files if name not in wanted]:
        raise EdgeError(
            f"{repository} has several {quantization or 'GGUF'} files: {', '.join([files[0], *others])}.",
            hint="Download the one you want with `hf download`, and give its path.",
        )
    if missing := [name for name in wanted if name not in files]:
        raise EdgeError(
            f"{repository} has {files[0]}, but not {missing[0]}: a part of the model is missing.",
            hint="Choose another quantization, as in org/name:Q4_K_M.",
        )
    return wanted


def _parts(name: str) -> list[str]:
    """The names of all parts of the split model that a file belongs to; of any other file, its own."""
    folder, slash, file = name.rpartition("/")
    part = parse_part_name(file)
    return [f"{folder}{slash}{other}" for other in part.all()] if part else [name]


def gguf_by_quantization(names: Sequence[str]) -> Mapping[str, list[str]]:
    """The GGUF models among the files by the quantization in their names, in capitals; "" when a name tells none."""
    found = defaultdict(list)
    for name in sorted(names):
        if name.lower().endswith(".gguf") and not any(part in name.lower() for part in _NOT_A_MODEL):
            labels = _QUANTIZATION_IN_NAME.findall(_SPLIT_GGUF_NAME.sub(".gguf", name))
            found[labels[-1].upper() if labels else ""].append(name)
    return dict(found)


def checkpoint_names(names: Sequence[str]) -> list[str]:
    """The files to download for a conversion; empty when the repository has no safetensors checkpoint.

    Copies of the weights in another layout (`consolidated.safetensors`) and pickles are left where they are.
    """
    if "config.json" not in names:
        return []
    small = [name for name in names if name in CHECKPOINT_FILES]
    if SINGLE_FILE in names:
        return [*small, SINGLE_FILE]
    if INDEX_FILE in names:
        return [*small, INDEX_FILE, *(name for name in names if _SHARD_NAME.fullmatch(name))]
    return []

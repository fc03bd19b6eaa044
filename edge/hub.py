"""The Hugging Face hub through huggingface_hub: what a repository holds, and its files in a folder of ours.

The one place that may use the network. Which files are wanted is for `edge.hub_choice`. Source: huggingface_hub's
`HfApi.model_info`, `http_get` and its cache layout. Its own downloads drop what they have when a process ends, so the
files are fetched here, each as NAME.part, which the next attempt goes on with.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from edge.errors import EdgeError
from edge.hub_errors import errors_for_people
from edge.quantities import size_text
from edge.stored_files import is_safe_name

if TYPE_CHECKING:
    from convert.pool import ProgressCallback

PART_SUFFIX = ".part"

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as far as its list says; the hub knows the sha256 of large files only."""

    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class RepositoryFiles:
    """The files of a repository at one commit, or those on this disk when the hub cannot be reached."""

    repository: str
    revision: str
    files: Mapping[str, HubFile]
    licence: str | None = None
    is_local_copy: bool = False

    @property
    def names(self) -> list[str]:
        return list(self.files)


class Hub(Protocol):
    """What `edge.pull` asks of a hub. Both methods raise EdgeError, and nothing else that a person must see."""

    def files(self, repository: str, revision: str | None = None) -> RepositoryFiles:
        """What there is to choose from, at the newest commit or at the one that is named."""
        ...

    def download(
        self, listing: RepositoryFiles, names: Sequence[str], folder: Path, progress: ProgressCallback | None = None
    ) -> Path:
        """A directory that holds these files: `folder`, or a cache of the hub's that has all of them already."""
        ...


class HuggingFaceHub:
    """The real hub. huggingface_hub is imported at the first use: it takes longer than the rest of edge."""

    def files(self, repository: str, revision: str | None = None) -> RepositoryFiles:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

        with errors_for_people(repository):
            try:
                # One request, which fails at once without a network; `list_repo_files` would try for half a minute
                found = HfApi().model_info(repository, revision=revision, files_metadata=True)
            except (OfflineModeIsEnabled, HTTPError) as error:
                is_refusal = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
                folder = None if is_refusal else _local_snapshot(repository, revision)
                if folder is None:
                    raise
                return _local_listing(repository, folder)
        files = {
            file.rfilename: HubFile(file.size, file.lfs.sha256 if file.lfs else None)
            for file in found.siblings or []
            if is_safe_name(file.rfilename)
        }
        if found.sha is None or not _COMMIT.fullmatch(found.sha):
            raise EdgeError(
                f"The hub names no commit of {repository}: {found.sha!r}.", hint="Check the address in HF_ENDPOINT."
            )
        return RepositoryFiles(repository, found.sha, files, _licence(found.card_data, found.tags))

    def download(
        self, listing: RepositoryFiles, names: Sequence[str], folder: Path, progress: ProgressCallback | None = None
    ) -> Path:
        with errors_for_people(listing.repository):
            if known := _in_library_cache(listing, names):
                return known
            _check_space(listing, names, folder)
            _check_sizes(listing, names)
            report = _Report(sum(listing.files[name].size_bytes or 0 for name in names), progress)
            for name in names:
                _fetch(listing, name, folder / name, report)
        return folder


def _licence(card: object, tags: Sequence[str] | None) -> str | None:
    """What the model's card calls its licence."""
    get = getattr(card, "get", None)
    licence = get("license") if get else None
    if licence == "other" and get:
        licence = get("license_name") or licence
    if isinstance(licence, str):
        return licence
    return next((tag.partition(":")[2] for tag in tags or [] if tag.startswith("license:")), None)


# huggingface_hub's own cache, which other programs fill


def _local_snapshot(repository: str, revision: str | None) -> Path | None:
    """The folder of what has been downloaded of the repository, which may be a part of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None


def _local_listing(repository: str, folder: Path) -> RepositoryFiles:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): HubFile(path.stat().st_size) for path in paths}
    return RepositoryFiles(repository, folder.name, files, is_local_copy=True)


def _in_library_cache(listing: RepositoryFiles, names: Sequence[str]) -> Path | None:
    """The snapshot in huggingface_hub's cache, if it has all these files whole."""
    from huggingface_hub import try_to_load_from_cache

    places = [try_to_load_from_cache(listing.repository, name, revision=listing.revision) for name in names]
    if not names or not all(isinstance(place, str) for place in places):
        return None
    for name, place in zip(names, places, strict=True):
        size_bytes = listing.files[name].size_bytes
        if size_bytes is not None and os.stat(str(place)).st_size != size_bytes:  # noqa: PTH116 - strings, as they come
            return None
    return Path(str(places[0])).parents[names[0].count("/")]


# Downloads


class _Report:
    """Adds up what several files have got, for the callback."""

    def __init__(self, total_bytes: int, callback: ProgressCallback | None) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._callback = callback

    def add(self, n_bytes: int) -> None:
        from convert.pool import Progress

        self._done_bytes += n_bytes
        if self._callback and n_bytes:
            self._callback(Progress(self._done_bytes, max(self._total_bytes, self._done_bytes)))


def _check_space(listing: RepositoryFiles, names: Sequence[str], folder: Path) -> None:
    """EdgeError before the first byte when the files cannot all be had; what is there already is not counted."""
    missing_bytes = 0
    for name in names:
        target = folder / name
        there = next((path for path in (target, _part_path(target)) if path.is_file()), None)
        missing_bytes += max(0, (listing.files[name].size_bytes or 0) - (there.stat().st_size if there else 0))
    disk = next(place for place in (folder, *folder.parents) if place.is_dir())
    free_bytes = shutil.disk_usage(disk).free
    if missing_bytes > free_bytes:
        raise EdgeError(
            f"{listing.repository} needs {size_text(missing_bytes)} more, and {size_text(free_bytes)} are free"
            f" in {disk}.",
            hint="Free some space, for example with `edge rm`, or name another folder in EDGE_CACHE.",
        )


def _check_sizes(listing: RepositoryFiles, names: Sequence[str]) -> None:
    """EdgeError before the first byte for a file that the hub does not give over plain HTTP."""
    from huggingface_hub import constants

    limit_bytes = constants.MAX_HTTP_DOWNLOAD_SIZE
    for name in names:
        size_bytes = listing.files[name].size_bytes or 0
        if size_bytes > limit_bytes:
            raise EdgeError(
                f"{name} of {listing.repository} has {size_text(size_bytes)}: more than the {size_text(limit_bytes)} of"
                " a file that the hub gives over HTTP.",
                hint=f"Choose another quantization, or: pip install hf_xet && hf download {listing.repository} {name}"
                " , and give the path of the file.",
            )


def _part_path(target: Path) -> Path:
    return target.with_name(target.name + PART_SUFFIX)


def _fetch(listing: RepositoryFiles, name: str, target: Path, report: _Report) -> None:
    """The file at `target`, gone on with where an earlier attempt ended. Its content is not checked here."""
    size_bytes = listing.files[name].size_bytes
    if target.is_file() and size_bytes in (None, target.stat().st_size):
        report.add(target.stat().st_size)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part_path(target)
    with part.open("ab") as file:
        if size_bytes is None or file.tell() > size_bytes:
            file.truncate(0)
        there_bytes = file.seek(0, os.SEEK_END)
        report.add(there_bytes)
        if there_bytes != size_bytes:  # of a whole file there is no rest that the hub would give
            _get(listing, name, file, report)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def _get(listing: RepositoryFiles, name: str, file: BinaryIO, report: _Report) -> None:
    """Append the rest of a file. EdgeError, and nothing appended, if what was sent is not of its size."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    there_bytes, size_bytes = file.tell(), listing.files[name].size_bytes
    try:
        http_get(
            hf_hub_url(listing.repository, name, revision=listing.revision),
            file,
            resume_size=there_bytes,
            headers=build_hf_headers(),
            expected_size=size_bytes,
            tqdm_class=_bar_class(report),
        )
    except OSError as error:
        if type(error) is not OSError or error.errno is not None or size_bytes is None:
            raise  # the connection, the hub or the disk; a plain one says that the size is wrong
        sent_bytes = file.tell()
        file.truncate(there_bytes)
        raise EdgeError(
            f"{name} of {listing.repository} has {size_text(size_bytes)}, and {size_text(sent_bytes)} arrived:"
            " something between this machine and the hub answers in its place.",
            hint="Check the network, such as a page that wants a login first, and run the same command again.",
        ) from error


def _bar_class(report: _Report) -> type:
    """What huggingface_hub takes for a progress bar: each one adds to the report."""

    class Bar:
        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n_bytes: float | None = 1) -> None:
            report.add(int(n_bytes or 0))

    return Bar

"""Lockfiles: which bytes a model was, so that another machine gets the same ones from the hub.

JSON, made to be kept in a repository beside what uses the models:

{"format": 1, "models": [{"name": "org/name:Q4_K_M", "repository": "org/name", "revision": "<commit>",
                          "licence": "gemma", "files": [{"file": ..., "bytes": ..., "sha256": ...}]}]}

Of a model that was converted, `files` are the checkpoint's, and `converted` is what became of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.store_record import Record, files_from_json, files_to_json
from edge.stored_files import StoredFile
from edge.whole_file import written_whole

FORMAT = 1

_SIZE_LIMIT_BYTES = 16 << 20
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class LockedModel:
    """A model by its bytes: what to download, and what its conversion must give, if it is one."""

    name: str
    repository: str
    revision: str
    files: tuple[StoredFile, ...]
    licence: str | None = None
    licence_files: tuple[StoredFile, ...] = ()
    converted: tuple[StoredFile, ...] = ()

    @property
    def model_files(self) -> tuple[StoredFile, ...]:
        """What is opened in the end."""
        return self.converted or self.files


def lock(record: Record) -> LockedModel:
    """What is fixed of a model in the store. EdgeError if it did not come from the hub."""
    if record.repository is None or record.revision is None or not _COMMIT.fullmatch(record.revision):
        raise EdgeError(
            f"{record.name} does not come from the hub, so that a lockfile cannot say where to get it.",
            hint="Take it to the other machine as a file: edge pull ... --bundle FILE",
        )
    is_made_here = bool(record.origin_files)
    return LockedModel(
        record.name,
        record.repository,
        record.revision,
        record.origin_files if is_made_here else record.files,
        record.licence,
        record.licence_files,
        record.files if is_made_here else (),
    )


def read_lockfile(path: Path) -> list[LockedModel]:
    """The models of a lockfile. EdgeError that says what is wrong with it."""
    try:
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise EdgeError(f"{path} is too large for a lockfile.", hint="Name the file that `edge pull --lock` wrote.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgeError(
            f"The lockfile {path} cannot be read: {error.strerror or error}.",
            hint="`edge pull MODEL --lock FILE` makes one.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(content, dict) or not isinstance(content.get("models"), list):
        raise _damaged(path, "it has no list of models")
    if content.get("format") != FORMAT:
        raise EdgeError(
            f"The lockfile {path} has the format {content.get('format')!r}; this edge reads {FORMAT}.",
            hint="Use the edge that wrote it, or make it anew.",
        )
    models = [_model(path, number, item) for number, item in enumerate(content["models"], 1)]
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _damaged(path, f"{twice} is in it twice")
    return models


def write_lockfile(path: Path, models: list[LockedModel]) -> None:
    """The models, in the order of their names; the file appears whole."""
    content = {"format": FORMAT, "models": [_to_json(model) for model in sorted(models, key=lambda model: model.name)]}
    try:
        with written_whole(path) as file:
            file.write((json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode())
    except OSError as error:
        raise EdgeError(
            f"The lockfile {path} cannot be written: {error.strerror or error}.",
            hint="Check the folder and the free space there; the model itself is in the store.",
        ) from error


def _to_json(model: LockedModel) -> dict[str, Any]:
    content: dict[str, Any] = {"name": model.name, "repository": model.repository, "revision": model.revision}
    if model.licence is not None:
        content["licence"] = model.licence
    content["files"] = files_to_json(model.files)
    if model.licence_files:
        content["licence_files"] = files_to_json(model.licence_files)
    if model.converted:
        content["converted"] = files_to_json(model.converted)
    return content


def _model(path: Path, number: int, item: Any) -> LockedModel:
    try:
        name, repository, revision, licence = (item.get(key) for key in ("name", "repository", "revision", "licence"))
        if not isinstance(repository, str) or not _REPOSITORY.fullmatch(repository):
            raise ValueError(f"{repository!r} is no repository")
        if not isinstance(name, str) or not re.fullmatch(re.escape(repository) + r":\w+", name):
            raise ValueError(f"{name!r} is no model of {repository}")
        if not isinstance(revision, str) or not _COMMIT.fullmatch(revision):
            raise ValueError(f"{revision!r} is no commit")
        if not isinstance(licence, str | None):
            raise ValueError(f"{licence!r} is no licence")
        files = files_from_json(item.get("files"))
        if not files:
            raise ValueError("it names no files")
        licence_files = files_from_json(item.get("licence_files", []))
        converted = files_from_json(item.get("converted", []))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise _damaged(path, f"in model {number}, {reason}") from error
    return LockedModel(name, repository, revision, files, licence, licence_files, converted)


def _damaged(path: Path, reason: str) -> EdgeError:
    return EdgeError(
        f"{path} is no lockfile of edge's: {reason}.", hint="Make it anew with: edge pull MODEL --lock FILE"
    )

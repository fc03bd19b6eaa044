"""Pulls that write or follow a lockfile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from edge.errors import EdgeError
from edge.lockfile import LockedModel, lock, read_lockfile, write_lockfile
from edge.pull import Puller
from edge.store_record import Record


def pull_all(puller: Puller, lockfile: Path) -> list[Record]:
    """Every model of a lockfile, with exactly its bytes. EdgeError at the first that cannot be had."""
    return [puller.pull_locked(model, lockfile) for model in read_lockfile(lockfile)]


def pull_one(puller: Puller, name: str, lockfile: Path, obtain: Callable[[], Record]) -> Record:
    """The model as the lockfile has it; if it has none of that name, as `obtain` gives it, and put into the lockfile.

    `name` may leave the quantization to the lockfile. EdgeError when it has several then.
    """
    with _held(puller, lockfile):
        models = read_lockfile(lockfile) if lockfile.exists() else []
        if locked := _find(models, name, lockfile):
            return puller.pull_locked(locked, lockfile)
        record = obtain()
        write_lockfile(lockfile, [*models, lock(record)])
    return record


def _held(puller: Puller, lockfile: Path) -> AbstractContextManager[None]:
    return puller.store.held(f"lockfile {lockfile.absolute()}")


def _find(models: list[LockedModel], name: str, lockfile: Path) -> LockedModel | None:
    found = [model for model in models if name in (model.name, model.repository)]
    if len(found) > 1:
        raise EdgeError(
            f"{lockfile} has several models of {name}: {', '.join(model.name for model in found)}.",
            hint="Name one of them.",
        )
    return found[0] if found else None

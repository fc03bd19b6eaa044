"""Carries out a plan and proves what came of it: a model gets its name only when it has passed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.plan import ConversionPlan, FilePlan
from convert.pool import ProgressCallback
from convert.proof import Display, Proof, no_display, prove
from convert.proof_keys import mark_passed
from convert.proof_record import record_path, write_record
from convert.write import rejected_path, write_files
from edge.errors import EdgeError


@dataclass(frozen=True)
class ProvenModel:
    """A model of a plan, and its proof."""

    plan: FilePlan
    proof: Proof

    @property
    def is_accepted(self) -> bool:
        return not self.proof.failed

    @property
    def path(self) -> Path:
        """Where the model lies; of a split one, its first part, or the folder of its parts if it was rejected."""
        return self.plan.first_path if self.is_accepted else rejected_path(self.plan.path)


def write_proven(
    plan: ConversionPlan,
    *,
    against_logits: Path | None = None,
    threads: int | None = None,
    display: Display = no_display,
) -> list[ProvenModel]:
    """Write every file of a plan, prove it, and keep the record of its proof beside it.

    A model that fails is left as NAME.gguf.rejected, and what stands under its name stays; see `raise_if_rejected`.
    """
    models: list[ProvenModel] = []
    shown = contextlib.ExitStack()

    def judge(file: FilePlan, path: Path) -> bool:
        shown.close()  # nothing else may be shown beside the steps of a proof
        proof = prove(path, plan, against_logits=against_logits, threads=threads, display=display)
        mark_passed(path, len(file.parts[0].header), proof.passed)
        models.append(ProvenModel(file, proof))
        return not proof.failed

    names = ", ".join(file.recipe.name for file in plan.files)
    with shown:
        progress = shown.enter_context(display(f"Converting to {names}"))
        write_files(plan, threads=threads, progress=progress, judge=judge)
    for model in models:
        _keep_record(model)
    return models


def write_unproven(plan: ConversionPlan, *, threads: int | None, progress: ProgressCallback | None) -> list[Path]:
    """Write every file of a plan, and remove the records of those that they replace."""
    paths = write_files(plan, threads=threads, progress=progress)
    for file in plan.files:
        record_path(file.first_path).unlink(missing_ok=True)
    return paths


def raise_if_rejected(models: Sequence[ProvenModel]) -> None:
    """EdgeError that says which models were rejected, and what the first of them failed."""
    rejected = [model for model in models if not model.is_accepted]
    if not rejected:
        return
    first, *others = rejected
    failed = first.proof.failed
    checks = ", ".join(check.name for check in failed)
    more = f" Rejected as well: {', '.join(model.plan.path.name for model in others)}." if others else ""
    raise EdgeError(
        f"{first.plan.path.name} failed its proof ({checks}): {failed[0].summary.rstrip('.')}.{more}",
        hint=f"It is kept as {first.path}. {failed[0].hint}".rstrip(),
    )


def _keep_record(model: ProvenModel) -> None:
    if model.is_accepted:
        write_record(model.proof, model.path, [part.path for part in model.plan.parts])
        return
    folder = model.path
    is_split = len(model.plan.parts) > 1
    files = [folder / part.path.name for part in model.plan.parts] if is_split else [folder]
    write_record(model.proof, folder, files)

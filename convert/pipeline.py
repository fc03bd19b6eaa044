"""From a checkpoint directory to GGUF files: read, plan, write, read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convert.checkpoint import Checkpoint, read_checkpoint
from convert.plan import ConversionPlan, plan_conversion
from convert.pool import ProgressCallback
from convert.recipes import RECIPES, Recipe, find_recipe
from convert.write import write_files
from edge.errors import EdgeError


def plan_checkpoint(
    source: Path, quantizations: Sequence[str], out: Path | None = None, *, force: bool = False
) -> ConversionPlan:
    """Plan the conversion of a checkpoint directory; nothing is written. EdgeError for anything in its way.

    `out` is a file for one quantization or a directory; the default is the current directory.
    """
    recipes = list({recipe.name: recipe for recipe in map(find_recipe, quantizations)}.values())
    if not recipes:
        raise EdgeError("No quantization was given.", hint=f"Known are: {', '.join(RECIPES)}.")
    checkpoint = read_checkpoint(source)
    targets = _targets(checkpoint, recipes, out or Path())
    for path in targets:
        _check_target(path, force=force)
    return plan_conversion(checkpoint, targets)


def convert_checkpoint(
    source: Path,
    quantizations: Sequence[str],
    out: Path | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Convert a checkpoint directory into one GGUF file for each quantization; gives their paths.

    The source is read once for all of them. `threads` defaults to the cores this process may use.
    """
    plan = plan_checkpoint(source, quantizations, out, force=force)
    return write_files(plan, threads=threads, progress=progress)


def _targets(checkpoint: Checkpoint, recipes: Sequence[Recipe], out: Path) -> dict[Path, Recipe]:
    is_file = out.suffix.lower() == ".gguf" and not out.is_dir()
    if is_file and len(recipes) > 1:
        raise EdgeError(
            f"{out} is one file, but {len(recipes)} quantizations were asked for.", hint="Give a directory with --out."
        )
    if is_file:
        return {out: recipes[0]}
    if out.exists() and not out.is_dir():
        raise EdgeError(f"{out} is neither a directory nor a .gguf file.", hint="Name one of them with --out.")
    return {out / f"{checkpoint.name}-{recipe.name}.gguf": recipe for recipe in recipes}


def _check_target(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise EdgeError(f"{path} is a directory.", hint="Remove it or write elsewhere with --out.")
    if path.exists() and not force:
        raise EdgeError(f"{path} exists already.", hint="Overwrite it with --force or write elsewhere with --out.")

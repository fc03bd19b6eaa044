"""From a checkpoint directory to GGUF files: read, plan, write, read back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from convert.adapter import read_adapter
from convert.adapter_base import read_adapter_base
from convert.adapter_plan import plan_adapter
from convert.checkpoint import read_checkpoint
from convert.merge import ScaledAdapter, merge_adapters
from convert.plan import NO_OPTIONS, ConversionOptions, ConversionPlan, FilePlan, open_source, plan_conversion
from convert.pool import ProgressCallback
from convert.proof import Display, Proof, no_display, prove
from convert.proven import raise_if_rejected, write_proven, write_unproven
from convert.recipes import RECIPES, Recipe, find_recipe
from convert.source import Source, checkpoint_source
from convert.verify import TensorProof, verify_planned
from convert.write import write_files
from edge.errors import EdgeError
from edge.gguf_file import read_gguf


def plan_checkpoint(
    source: Path,
    quantizations: Sequence[str],
    out: Path | None = None,
    *,
    merge: Sequence[ScaledAdapter] = (),
    options: ConversionOptions = NO_OPTIONS,
    force: bool = False,
) -> ConversionPlan:
    """Plan the conversion of a checkpoint directory or a GGUF file; nothing is written.

    `out` is a file for one quantization or a directory; the default is the current directory. The LoRA adapters to
    `merge` become part of the weights of a checkpoint.
    """
    opened = _open(source, merge)
    plan = plan_conversion(opened, _targets(opened.name, _recipes(quantizations), out or Path()), options)
    for file in plan.files:
        for part in file.parts:
            _check_target(part.path, force=force)
    return plan


def check_targets(
    source: Path,
    quantizations: Sequence[str],
    out: Path | None = None,
    *,
    merge: Sequence[ScaledAdapter] = (),
    force: bool = False,
) -> None:
    """EdgeError for what would keep a conversion from starting, before a long measurement is made for it."""
    for path in _targets(_open(source, merge).name, _recipes(quantizations), out or Path()):
        _check_target(path, force=force)


def convert_checkpoint(
    source: Path,
    quantizations: Sequence[str],
    out: Path | None = None,
    *,
    merge: Sequence[ScaledAdapter] = (),
    options: ConversionOptions = NO_OPTIONS,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Convert a checkpoint directory or a GGUF file into one GGUF file for each quantization, and prove each of them.

    Gives the files to load. The source is read once for all of them. `threads` defaults to the cores this process may
    use; progress starts again when files are read back. EdgeError when a file fails its proof: it is kept as
    NAME.gguf.rejected, and those that pass are there.
    """
    plan = plan_checkpoint(source, quantizations, out, merge=merge, options=options, force=force)
    display = (lambda label: contextlib.nullcontext(progress)) if progress else no_display
    models = write_proven(plan, threads=threads, display=display)
    raise_if_rejected(models)
    return [model.path for model in models]


def write_checkpoint(
    source: Path,
    quantizations: Sequence[str],
    out: Path | None = None,
    *,
    merge: Sequence[ScaledAdapter] = (),
    options: ConversionOptions = NO_OPTIONS,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """As `convert_checkpoint`, without the proof."""
    plan = plan_checkpoint(source, quantizations, out, merge=merge, options=options, force=force)
    return write_unproven(plan, threads=threads, progress=progress)


def prove_file(
    path: Path,
    source: Path | None = None,
    *,
    merge: Sequence[ScaledAdapter] = (),
    against_logits: Path | None = None,
    threads: int | None = None,
    display: Display = no_display,
) -> Proof:
    """Check a GGUF file, or a split model by any of its parts; against the checkpoint it was made of, if one is given.

    What is wrong with it is in the proof: see `Proof.failed`. The adapters to `merge` are part of the checkpoint.
    """
    if read_gguf(path).metadata.get("general.type") == "adapter":
        raise EdgeError(
            f"{path} is an adapter: it is checked whenever it is used with a model.",
            hint="Try it with: edge run MODEL PROMPT --lora ADAPTER.gguf",
        )
    plan = plan_conversion(_open(source, merge), {}) if source else None
    return prove(path, plan, against_logits=against_logits, threads=threads, display=display)


def plan_adapter_file(
    directory: Path, base: Path | None, quantization: str = "F32", out: Path | None = None, *, force: bool = False
) -> ConversionPlan:
    """Plan the conversion of a PEFT LoRA directory into a GGUF adapter; nothing is written.

    `base` is what it was trained on, a checkpoint directory or a GGUF file made of one; `out` a file or a directory.
    """
    adapter = read_adapter(directory)
    if base is None:
        trained_on = f" It was trained on {adapter.config.base_name}." if adapter.config.base_name else ""
        raise EdgeError(
            f"{directory} is an adapter, which is converted for its base.{trained_on}",
            hint="Name the base, a checkpoint directory or its GGUF file, with --base.",
        )
    recipe = find_recipe(quantization)
    (path,) = _targets(adapter.name, [recipe], out or Path())
    _check_target(path, force=force)
    return plan_adapter(adapter, read_adapter_base(base), path, recipe)


def convert_adapter(
    directory: Path,
    base: Path,
    quantization: str = "F32",
    out: Path | None = None,
    *,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Path:
    """Convert a PEFT LoRA directory into a GGUF adapter for `base`; gives its path."""
    plan = plan_adapter_file(directory, base, quantization, out, force=force)
    write_adapter(plan, progress=progress)
    return plan.files[0].path


def write_adapter(
    plan: ConversionPlan, *, threads: int | None = None, progress: ProgressCallback | None = None
) -> TensorProof:
    """Write the file of a planned adapter. It gets its name only when every tensor reads back as it should."""
    proofs: list[TensorProof] = []

    def judge(file: FilePlan, path: Path) -> bool:
        proofs.append(verify_planned(read_gguf(path), plan, threads=threads))
        return True

    write_files(plan, threads=threads, progress=progress, judge=judge)
    return proofs[0]


def _open(source: Path, merge: Sequence[ScaledAdapter]) -> Source:
    """A source with adapters merged into it."""
    if not merge:
        return open_source(source)
    if source.is_file():
        raise EdgeError(
            f"An adapter cannot be merged into {source}: its tensors are not named as in a checkpoint.",
            hint="Merge it into the checkpoint that the file was made of.",
        )
    return checkpoint_source(merge_adapters(read_checkpoint(source), merge))


def _recipes(quantizations: Sequence[str]) -> list[Recipe]:
    recipes = list({recipe.name: recipe for recipe in map(find_recipe, quantizations)}.values())
    if not recipes:
        raise EdgeError("No quantization was given.", hint=f"Known are: {', '.join(RECIPES)}.")
    return recipes


def _targets(name: str, recipes: Sequence[Recipe], out: Path) -> dict[Path, Recipe]:
    is_file = out.suffix.lower() == ".gguf" and not out.is_dir()
    if is_file and len(recipes) > 1:
        raise EdgeError(
            f"{out} is one file, but {len(recipes)} quantizations were asked for.", hint="Give a directory with --out."
        )
    if is_file:
        return {out: recipes[0]}
    if out.exists() and not out.is_dir():
        raise EdgeError(f"{out} is neither a directory nor a .gguf file.", hint="Name one of them with --out.")
    return {out / f"{name}-{recipe.name}.gguf": recipe for recipe in recipes}


def _check_target(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise EdgeError(f"{path} is a directory.", hint="Remove it or write elsewhere with --out.")
    if path.exists() and not force:
        raise EdgeError(f"{path} exists already.", hint="Overwrite it with --force or write elsewhere with --out.")

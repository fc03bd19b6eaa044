"""What the convert and verify commands print: as JSON documents, and as lines for people.

A path stands on a line of its own and is never cut, so that it can be copied from any terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convert.plan import ConversionPlan, FilePlan
from convert.verify import Proof
from edge.tables import cell, table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_WORST_SHOWN = 5


def plan_document(plan: ConversionPlan) -> dict[str, Any]:
    """A plan without its tensors' bytes: what would be written where, with exact sizes."""
    return {
        "family": plan.family.name,
        "tensors": len(plan.tensors),
        "parameters": plan.parameter_count,
        "source_bytes": plan.source_bytes,
        "files": [
            {
                "path": str(file.path),
                "quantization": file.recipe.name,
                "bytes": file.file_bytes,
                "bits_per_weight": round(_bits_per_weight(plan, file), 3),
                "tensor_types": _type_counts(file),
            }
            for file in plan.files
        ],
        "limitations": list(plan.limitations),
    }


def result_document(plan: ConversionPlan, proofs: Sequence[Proof]) -> dict[str, Any]:
    """A plan that was carried out, and the proof of each file that was read back."""
    return {**plan_document(plan), "proofs": [proof_document(proof) for proof in proofs]}


def proof_document(proof: Proof) -> dict[str, Any]:
    return {
        "path": str(proof.path),
        "bytes": proof.file_bytes,
        "tensors": proof.tensor_count,
        "family": proof.family,
        "source": str(proof.source) if proof.source else None,
        "errors": [
            {
                "tensor": error.name,
                "type": error.type,
                "relative_error": error.relative_error,
                "bound": error.bound,
            }
            for error in proof.errors
        ],
    }


def render_plan(plan: ConversionPlan) -> Group:
    """What would be written: each file with its exact size and the types of its tensors."""
    title = f"{plan.family.name}: {plan.parameter_count:,} parameters in {len(plan.tensors)} tensors"
    lines: list[RenderableType] = [cell(title, "bold")]
    for file in plan.files:
        counts = ", ".join(f"{count} {name}" for name, count in _type_counts(file).items())
        lines += _entry(str(file.path), f"{_size(plan, file)}: {counts}")
    return _group([*lines, *_limitations(plan)])


def render_result(plan: ConversionPlan, proofs: Sequence[Proof]) -> Group:
    """What was written: each file with its size, and the tensor that came nearest to its type's error bound."""
    checked = {proof.path: proof for proof in proofs}
    lines: list[RenderableType] = []
    for file in plan.files:
        proof = checked.get(file.path)
        lines += _entry(str(file.path), _size(plan, file), _summary(proof) if proof else "not read back")
    return _group([*lines, *_limitations(plan)])


def render_proof(proof: Proof) -> Group:
    """What was proven of a file; with a source, the tensors that came nearest to their bounds."""
    lines = _entry(str(proof.path), f"{proof.file_bytes:,} bytes", _summary(proof))
    return _group([*lines, "", _worst_errors(proof)] if proof.errors else lines)


def _worst_errors(proof: Proof) -> Table:
    worst = table(
        "Nearest to their bounds", ("Tensor", "left"), ("Type", "left"), ("Error", "right"), ("Bound", "right")
    )
    for error in proof.errors[:_WORST_SHOWN]:
        worst.add_row(cell(error.name), error.type, f"{error.relative_error:.2e}", f"{error.bound:.2g}")
    return worst


def _limitations(plan: ConversionPlan) -> list[RenderableType]:
    return [cell(f"note: {limitation}.") for limitation in plan.limitations]


def _entry(path: str, *details: str) -> list[RenderableType]:
    from rich.padding import Padding

    return [cell(path), *(Padding(cell(detail), (0, 0, 0, 2), expand=False) for detail in details)]


def _group(lines: Sequence[RenderableType]) -> Group:
    from rich.console import Group

    return Group(*lines)


def _summary(proof: Proof) -> str:
    if proof.errors:
        worst = proof.errors[0]
        if not worst.relative_error:
            return f"{proof.tensor_count} tensors equal their source exactly"
        return (
            f"{proof.tensor_count} tensors match their source; worst {worst.name}:"
            f" {worst.relative_error:.2%} ({worst.type})"
        )
    completeness = "complete" if proof.family else "of an architecture without a completeness check"
    return f"{proof.tensor_count} tensors, {completeness}, all finite"


def _size(plan: ConversionPlan, file: FilePlan) -> str:
    return f"{file.file_bytes:,} bytes, {_bits_per_weight(plan, file):.2f} bits per weight"


def _type_counts(file: FilePlan) -> dict[str, int]:
    return dict(Counter(kind.name for kind in file.types.values()).most_common())


def _bits_per_weight(plan: ConversionPlan, file: FilePlan) -> float:
    return 8 * file.weights_bytes / plan.parameter_count

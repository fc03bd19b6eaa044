"""What the convert and verify commands print: as JSON documents and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convert.plan import ConversionPlan, FilePlan
from convert.verify import Proof

if TYPE_CHECKING:
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
    }


def plan_table(plan: ConversionPlan) -> Table:
    title = f"{plan.family.name}: {plan.parameter_count:,} parameters in {len(plan.tensors)} tensors"
    table = _table(title, "file", "bytes", "bits/weight", "tensor types")
    for file in plan.files:
        counts = ", ".join(f"{count} {name}" for name, count in _type_counts(file).items())
        table.add_row(str(file.path), f"{file.file_bytes:,}", f"{_bits_per_weight(plan, file):.2f}", counts)
    return table


def result_document(plan: ConversionPlan, proofs: Sequence[Proof]) -> dict[str, Any]:
    """A plan that was carried out, and the proof of each file that was read back."""
    return {**plan_document(plan), "proofs": [proof_document(proof) for proof in proofs]}


def result_table(plan: ConversionPlan, proofs: Sequence[Proof]) -> Table:
    """One row a file: its size, and the tensor that came nearest to its type's error bound."""
    table = _table("", "file", "bytes", "bits/weight", "proof")
    checked = {proof.path: proof for proof in proofs}
    for file in plan.files:
        proof = checked.get(file.path)
        size, bits = f"{file.file_bytes:,}", f"{_bits_per_weight(plan, file):.2f}"
        table.add_row(str(file.path), size, bits, _summary(proof) if proof else "not read back")
    return table


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


def proof_table(proof: Proof) -> Table:
    """The tensors that came nearest to their bounds."""
    if not proof.errors:
        table = _table("", "file", "bytes", "proof")
        table.add_row(str(proof.path), f"{proof.file_bytes:,}", _summary(proof))
        return table
    table = _table(f"{proof.path}: {_summary(proof)}; nearest to their bound:", "tensor", "type", "error", "bound")
    for error in proof.errors[:_WORST_SHOWN]:
        table.add_row(error.name, error.type, f"{error.relative_error:.2e}", f"{error.bound:.0e}")
    return table


def _summary(proof: Proof) -> str:
    if proof.errors:
        worst = proof.errors[0]
        return (
            f"{proof.tensor_count} tensors match their source; worst {worst.name}:"
            f" {worst.relative_error:.2%} ({worst.type})"
        )
    completeness = "complete" if proof.family else "of an architecture without a completeness check"
    return f"{proof.tensor_count} tensors, {completeness}, all finite"


def _type_counts(file: FilePlan) -> dict[str, int]:
    return dict(Counter(kind.name for kind in file.types.values()).most_common())


def _bits_per_weight(plan: ConversionPlan, file: FilePlan) -> float:
    return 8 * (file.file_bytes - len(file.header)) / plan.parameter_count


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=title, title_justify="left", title_style="")
    for column in columns:
        table.add_column(column, justify="right" if column in ("bytes", "bits/weight", "error", "bound") else "left")
    return table

"""What the convert and verify commands print: as JSON documents, and as lines for people.

A path stands on a line of its own and is never cut, so that it can be copied from any terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convert.encode import encoder_name, types_left_to_ggml
from convert.plan import ConversionPlan, FilePlan
from convert.proof import Proof
from convert.proof_record import proof_document
from convert.proven import ProvenModel
from convert.quantization_error import TensorError
from convert.verify import TensorProof
from edge.gguf_format import TensorType
from edge.tables import cell, table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_WORST_SHOWN = 5
_MARKS = {"passed": "✓", "failed": "✗", "skipped": "-"}
_CHECK_WIDTH = 8


def plan_document(plan: ConversionPlan) -> dict[str, Any]:
    """A plan without its tensors' bytes: what would be written where, with exact sizes."""
    return {
        "family": plan.family,
        "tensors": len(plan.tensors),
        "parameters": plan.parameter_count,
        "source_bytes": plan.source_bytes,
        "files": [
            {
                "path": str(file.first_path),
                "parts": [{"path": str(part.path), "bytes": part.file_bytes} for part in file.parts],
                "quantization": file.recipe.name,
                "bytes": file.file_bytes,
                "bits_per_weight": round(_bits_per_weight(plan, file), 3),
                "tensor_types": _type_counts(file),
            }
            for file in plan.files
        ],
        "limitations": list(plan.limitations),
    }


def result_document(plan: ConversionPlan, models: Sequence[ProvenModel]) -> dict[str, Any]:
    """A plan that was carried out, what quantized its weights, and the proof of each model."""
    proofs = [{**proof_document(model.proof), "path": str(model.path)} for model in models]
    left = list(types_left_to_ggml(_types(plan)))
    return {**plan_document(plan), "encoder": encoder_name(), "types_left_to_ggml": left, "proofs": proofs}


def render_plan(plan: ConversionPlan) -> Group:
    """What would be written: each file with its exact size and the types of its tensors."""
    title = f"{plan.family}: {plan.parameter_count:,} parameters in {len(plan.tensors)} tensors"
    lines: list[RenderableType] = [cell(title, "bold")]
    for file in plan.files:
        counts = ", ".join(f"{count} {name}" for name, count in _type_counts(file).items())
        lines += _entry(str(file.first_path), f"{_size(plan, file)}: {counts}")
    return _group([*lines, *_limitations(plan)])


def render_result(plan: ConversionPlan, models: Sequence[ProvenModel]) -> Group:
    """What was written: each file with its size, and what came of each check of its proof."""
    proven = {model.plan.path: model for model in models}
    lines: list[RenderableType] = []
    for file in plan.files:
        model = proven.get(file.path)
        checks = _check_lines(model.proof) if model else ["not proven"]
        lines += _entry(str(model.path if model else file.first_path), _size(plan, file), *checks)
    if any(file.recipe.is_quantized for file in plan.files):
        lines.append(cell(_encoder_line(encoder_name(), types_left_to_ggml(_types(plan)))))
    return _group([*lines, *_limitations(plan)])


def render_adapter(plan: ConversionPlan, proof: TensorProof) -> Group:
    """What was written of an adapter: its file and size, and how it reads back."""
    (file,) = plan.files
    size = f"{file.file_bytes:,} bytes as {file.recipe.name}"
    return _group([*_entry(str(file.path), size, proof.summary), *_limitations(plan)])


def render_proof(proof: Proof) -> Group:
    """What came of each check of a file; with a source, the tensors that came nearest to their bounds."""
    lines = _entry(str(proof.path), f"{proof.file_bytes:,} bytes", *_check_lines(proof))
    errors = proof.tensors.errors if proof.tensors else ()
    return _group([*lines, "", _worst_errors(errors)] if errors else lines)


def _check_lines(proof: Proof) -> list[str]:
    return [f"{_MARKS[check.outcome]} {check.name:<{_CHECK_WIDTH}} {check.summary}" for check in proof.checks]


def _types(plan: ConversionPlan) -> list[TensorType]:
    """All that some file has a tensor of, in the order of their ids."""
    return sorted({kind for file in plan.files for kind in file.types.values()}, key=lambda kind: kind.id)


def _encoder_line(name: str, left_to_ggml: Sequence[str]) -> str:
    if name == "ggml":
        return "quantized by ggml; edge doctor says how to make it several times faster"
    exceptions = f", {', '.join(left_to_ggml)} by ggml" if left_to_ggml else ""
    return f"quantized with {name} instructions{exceptions}"


def _worst_errors(errors: Sequence[TensorError]) -> Table:
    worst = table(
        "Nearest to their bounds", ("Tensor", "left"), ("Type", "left"), ("Error", "right"), ("Bound", "right")
    )
    for error in errors[:_WORST_SHOWN]:
        worst.add_row(cell(error.name), error.type, f"{error.relative_error:.2e}", f"{error.bound:.2g}")
    return worst


def _limitations(plan: ConversionPlan) -> list[RenderableType]:
    return [cell(f"note: {limitation}.") for limitation in plan.limitations]


def _entry(path: str, *details: str) -> list[RenderableType]:
    return [cell(path), *(cell(f"  {detail}") for detail in details)]


def _group(lines: Sequence[RenderableType]) -> Group:
    from rich.console import Group

    return Group(*lines)


def _size(plan: ConversionPlan, file: FilePlan) -> str:
    parts = f" in {len(file.parts)} parts" if len(file.parts) > 1 else ""
    return f"{file.file_bytes:,} bytes{parts}, {_bits_per_weight(plan, file):.2f} bits per weight"


def _type_counts(file: FilePlan) -> dict[str, int]:
    return dict(Counter(kind.name for kind in file.types.values()).most_common())


def _bits_per_weight(plan: ConversionPlan, file: FilePlan) -> float:
    return 8 * file.weights_bytes / plan.parameter_count

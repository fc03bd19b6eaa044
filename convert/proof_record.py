"""A proof as a JSON document, and the file of it that is kept beside a model: NAME.proof.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.metadata import converter_versions
from convert.proof import Check, Proof
from edge.errors import EdgeError

_FORMAT = 1


def proof_document(proof: Proof) -> dict[str, Any]:
    """Every check with its figures."""
    return {
        "path": str(proof.path),
        "bytes": proof.file_bytes,
        "source": str(proof.source) if proof.source else None,
        "result": "failed" if proof.failed else "passed",
        "checks": [_check_document(check) for check in proof.checks],
    }


def record_path(path: Path) -> Path:
    """Where the record of a file lies: beside it, under its name without what says that it is a GGUF file.

    Of a split model, beside its first part.
    """
    return path.with_name(path.name.replace(".gguf", "") + ".proof.json")


def write_record(proof: Proof, model: Path, files: Sequence[Path]) -> Path:
    """Write the record of a model that lies in these files; it holds their sha256, so that it speaks of no others."""
    document = proof_document(proof)
    del document["path"]  # it may be moved with its record
    versions = dict(version.rsplit(" ", 1) for version in converter_versions())
    record = {
        "format": _FORMAT,
        "model": model.name,
        "files": [_file_document(file) for file in files],
        "versions": versions,
        **document,
    }
    path = record_path(model)
    try:
        path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise EdgeError(f"{path} cannot be written: {error.strerror or error}.", hint="Check the folder.") from error
    return path


def _check_document(check: Check) -> dict[str, Any]:
    return {
        "check": check.name,
        "outcome": check.outcome,
        "summary": check.summary,
        "seconds": round(check.seconds, 3),
        **({"figures": dict(check.figures)} if check.figures else {}),
    }


def _file_document(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}

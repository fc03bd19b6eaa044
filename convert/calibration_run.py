"""The importance matrix of a source. A GGUF file is run as it is; a checkpoint as a file that is dropped again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.calibrate import measure_importance
from convert.calibration_text import CalibrationText, read_calibration_text
from convert.imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from convert.merge import ScaledAdapter
from convert.pipeline import write_checkpoint
from convert.proof import Display, no_display
from edge.errors import EdgeError

RUN_AS = "Q8_0"
"""What a checkpoint is run as: its activations are those of the checkpoint but for less than a hundredth."""


@dataclass(frozen=True)
class MatrixRequest:
    """Where a matrix comes from, a file or a text to measure it on, and where it is kept."""

    file: Path | None = None
    calibrate: str | None = None
    """A text file, or `default` for the text that comes with edge."""
    save: Path | None = None


def obtain_matrix(
    request: MatrixRequest,
    source: Path,
    *,
    merge: Sequence[ScaledAdapter] = (),
    beside: Path | None = None,
    threads: int | None = None,
    display: Display = no_display,
) -> ImportanceMatrix | None:
    """The importance matrix that is asked for, or None.

    A checkpoint is converted first, in or beside `beside`, where there has to be room for it at 8 bits. EdgeError for
    requests that contradict each other.
    """
    if request.file and request.calibrate:
        raise EdgeError("--imatrix and --calibrate exclude each other.", hint="Leave one of them out.")
    if request.save and not (request.file or request.calibrate):
        raise EdgeError("--save-imatrix has nothing to save.", hint="Measure a matrix with --calibrate default.")
    matrix = None
    if request.file:
        matrix = read_imatrix(request.file)
    elif request.calibrate:
        text = read_calibration_text(request.calibrate)
        matrix = _measure(text, source, merge, beside or Path(), threads, display)
    if matrix and request.save:
        write_imatrix(request.save, matrix)
    return matrix


def _measure(
    text: CalibrationText,
    source: Path,
    merge: Sequence[ScaledAdapter],
    beside: Path,
    threads: int | None,
    display: Display,
) -> ImportanceMatrix:
    if source.is_file():
        return _run(source, text, threads, display)
    scratch = next(folder for folder in (beside, *beside.absolute().parents) if folder.is_dir())
    try:
        folder = tempfile.TemporaryDirectory(prefix=".edge-calibrate-", dir=scratch)
    except OSError as error:
        raise EdgeError(
            f"{scratch} cannot be written: {error.strerror or error}.", hint="Write elsewhere with --out."
        ) from error
    with folder as name:
        model = Path(name) / f"{source.resolve().name}-{RUN_AS}.gguf"
        with display(f"Converting to {RUN_AS}, for the calibration only") as progress:
            write_checkpoint(source, [RUN_AS], model, merge=merge, threads=threads, progress=progress)
        return _run(model, text, threads, display)


def _run(model: Path, text: CalibrationText, threads: int | None, display: Display) -> ImportanceMatrix:
    with display(f"Calibrating on {text.name}") as progress:
        return measure_importance(model, text, threads=threads, progress=progress)

"""How well `edge.memory` predicts: against llama.cpp's own report of its buffers, and against processes that run.

    python -m bench.memory                        # sparse files in the shape of published models, nothing is allocated
    python -m bench.memory --resident FILE.gguf   # the peak memory of a process that reads a long prompt with the model

The first compares weights, KV cache, compute and output buffers over a grid of models, contexts, KV types, steps and
sequences; it fails if a total is further away than 3 % and 16 MiB. The second needs a quiet machine no more than the
first: memory is no matter of speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.memory_resident import Resident, measure_resident
from bench.sparse_model import write_sparse_model
from edge.compute_memory import compute_bytes, output_bytes
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.kv_cache_memory import ContextPlan, cache_bytes
from edge.llama.sizes import ContextShape, SizedModel
from edge.memory import LARGEST_ERROR_BYTES, LARGEST_ERROR_SHARE
from edge.model_shape import StoredModel, stored_model
from edge.published_models import published_config, published_names
from edge.settings import KVType, ModelSettings
from edge.terminal import report_error

QUANTIZATION = "Q4_K_M"
GUESSES = 16
_MEBIBYTE = 1 << 20


def _context(
    tokens: int, sequences: int, step: int, key: KVType, value: KVType, *, has_flash_attention: bool = True
) -> ContextPlan:
    return ContextPlan(
        context_tokens=tokens,
        sequences=sequences,
        batch_tokens=step,
        max_outputs=sequences + GUESSES,
        key_type=key,
        value_type=value,
        has_flash_attention=has_flash_attention,
    )


# every value of one parameter meets several of the others
GRID = (
    _context(512, 1, 512, "F16", "F16"),
    _context(1000, 3, 256, "Q8_0", "Q8_0"),
    _context(4096, 1, 128, "Q4_0", "Q4_0"),
    _context(8192, 1, 512, "F16", "F16"),
    _context(8192, 1, 32, "Q8_0", "F16"),
    _context(8192, 4, 1024, "Q8_0", "Q4_0"),
    _context(8192, 32, 512, "F16", "F16"),
    _context(16384, 16, 512, "Q8_0", "Q8_0"),
    _context(32768, 1, 2048, "F16", "F16"),
    _context(131072, 2, 256, "Q4_0", "Q4_0"),
    _context(4096, 1, 512, "F16", "F16", has_flash_attention=False),
    _context(8192, 2, 256, "Q8_0", "F16", has_flash_attention=False),
)


@dataclass(frozen=True)
class Comparison:
    """One context: what was predicted, and what llama.cpp reports."""

    model: str
    context: ContextPlan
    weights_bytes: int
    predicted_cache_bytes: int
    cache_bytes: int
    predicted_compute_bytes: int
    compute_bytes: int
    output_bytes: int
    error_bytes: int
    """Of the total, with weights and output: predicted less reported."""

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.compute_bytes + self.output_bytes

    @property
    def error_share(self) -> float:
        return self.error_bytes / self.total_bytes

    @property
    def is_within_limit(self) -> bool:
        return abs(self.error_bytes) <= max(LARGEST_ERROR_BYTES, LARGEST_ERROR_SHARE * self.total_bytes)


def compare_model(repository: str, folder: Path, grid: Sequence[ContextPlan] = GRID) -> Iterator[Comparison]:
    """Every context of the grid for one published model."""
    config = published_config(repository)
    assert config is not None, f"{repository} is not among the published models"
    path = folder / f"{repository.replace('/', '--')}.gguf"
    write_sparse_model(path, config, QUANTIZATION)
    model = stored_model(read_gguf(path))
    with SizedModel(path) as sized:
        for context in grid:
            yield _compare(repository, model, sized, context)
    path.unlink()


def _compare(repository: str, model: StoredModel, sized: SizedModel, context: ContextPlan) -> Comparison:
    reported = sized.context_sizes(
        ContextShape(
            context_tokens=context.context_tokens,
            sequences=context.sequences,
            batch_tokens=context.batch_tokens,
            max_outputs=context.max_outputs,
            key_type=context.key_type,
            value_type=context.value_type,
            has_flash_attention=context.has_flash_attention,
        )
    )
    # llama.cpp makes room for a row of logits for each sequence, and for more only when a step asks for more
    output = output_bytes(model.shape, context) * context.sequences // context.output_rows
    cache, compute = cache_bytes(model.shape, context), compute_bytes(model.shape, context)
    return Comparison(
        model=repository,
        context=context,
        weights_bytes=sized.weights_bytes,
        predicted_cache_bytes=cache,
        cache_bytes=reported.cache_bytes,
        predicted_compute_bytes=compute,
        compute_bytes=reported.compute_bytes,
        output_bytes=reported.output_bytes,
        error_bytes=model.weights_bytes + cache + compute + output - sized.weights_bytes - reported.total_bytes,
    )


def _print_comparisons(comparisons: Sequence[Comparison]) -> None:
    print("model                                     contexts  largest error of the total")
    for name in dict.fromkeys(each.model for each in comparisons):
        ours = [each for each in comparisons if each.model == name]
        worst = max(ours, key=lambda each: abs(each.error_share))
        print(f"{name:42}{len(ours):8}  {_error_text(worst)}")
    worst = max(comparisons, key=lambda each: abs(each.error_share))
    outside = [each for each in comparisons if not each.is_within_limit]
    print(f"worst of {len(comparisons)}: {worst.model}, {_context_text(worst.context)}: {_error_text(worst)}")
    for each in outside:
        print(f"outside of 3 % and 16 MiB: {each.model}, {_context_text(each.context)}: {_error_text(each)}")


def _error_text(each: Comparison) -> str:
    total = each.total_bytes / _MEBIBYTE
    return f"{each.error_bytes / _MEBIBYTE:+8.1f} MiB of {total:8.0f} ({100 * each.error_share:+.2f} %)"


def _context_text(context: ContextPlan) -> str:
    attention = "" if context.has_flash_attention else ", without flash attention"
    return (
        f"{context.context_tokens} tokens, {context.sequences} sequences, steps of {context.batch_tokens}, "
        f"{context.key_type}/{context.value_type}{attention}"
    )


def _print_residents(measured: Sequence[Resident]) -> None:
    print("file                                        predicted     measured")
    for each in measured:
        predicted, peak = each.predicted_bytes / _MEBIBYTE, each.peak_bytes / _MEBIBYTE
        print(f"{each.name:42}{predicted:8.0f} MiB {peak:8.0f} MiB ({100 * (predicted / peak - 1):+.1f} %)")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--resident", nargs="+", type=Path, metavar="FILE", help="models to run, each in a process")
    parser.add_argument("--ctx", type=int, default=2048, help="the context of --resident (default: 2048)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every comparison there as well")
    options = parser.parse_args(arguments)
    try:
        if options.resident:
            _check_files(options.resident, options.ctx)
            _print_residents([measure_resident(path, options.ctx) for path in options.resident])
            return 0
        return _compare_all(options.json)
    except EdgeError as error:
        report_error(error)
        return 1


def _check_files(paths: Sequence[Path], context_tokens: int) -> None:
    """EdgeError before the first process starts that the last one could not be run."""
    ModelSettings(context_tokens=context_tokens)
    for path in paths:
        read_gguf(path)


def _compare_all(written: Path | None) -> int:
    """The whole grid printed, and written as JSON where that is asked for; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        comparisons = [each for name in published_names() for each in compare_model(name, Path(folder))]
    _print_comparisons(comparisons)
    if written:
        try:
            written.write_text(json.dumps([asdict(each) for each in comparisons], indent=1), "utf-8")
        except OSError as error:
            raise EdgeError(
                f"{written} cannot be written: {error.strerror or error}.", hint="What was found is printed above."
            ) from error
    return 0 if all(each.is_within_limit for each in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())

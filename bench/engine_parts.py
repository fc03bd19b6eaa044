"""Rows that a bench of their own measures: what sampling costs, which schemas are held, what survives a kill."""

from __future__ import annotations

from bench import kill, maskbench, sampling
from bench.engine_case import Case, model_name
from bench.engine_report import Bar, Finding, skipped
from edge.llama.model import Model
from edge.terminal import note

MASKBENCH, KILL, SAMPLING = "maskbench", "kill", "sampling"
_SAMPLING_BAR_MS = 0.35
_SAMPLING_ROUNDS = 200
_RIGHT_BAR = 0.97


def measure_sampling(case: Case) -> list[Finding]:
    """One token of the largest vocabulary with the default settings, against llama.cpp's chain over all of it."""
    size = max(sampling.VOCABULARIES)
    default = next(each for each in sampling.CASES if each.name == "default")
    times = sampling.measure(default, size, _SAMPLING_ROUNDS)
    return [
        Finding(
            SAMPLING,
            f"choosing one of {size:,} tokens",
            f"{times.edge / 1e3:.3f} ms",
            f"{times.llama / 1e3:.3f} ms",
            "llama.cpp's chain",
            times.edge / 1e3,
            unit="ms",
            bar=Bar(_SAMPLING_BAR_MS, "at most"),
        )
    ]


def measure_maskbench(case: Case) -> list[Finding]:
    """Schemas of a MaskBench sample with the model's vocabulary: the file says which instances are valid."""
    titles = "schemas that end right", "invalid instances accepted"
    if case.maskbench is None:
        return [skipped(MASKBENCH, titles[0], "give a folder of MaskBench files with --maskbench")]
    with Model(case.model, vocabulary_only=True) as model:
        measured = maskbench.measure(case.maskbench, model.vocab)
    verdicts = measured.verdicts
    refused = sum(bool(verdict.refusal) for verdict in verdicts)
    invalid = sum(verdict.invalid for verdict in verdicts)
    return [
        Finding(
            MASKBENCH,
            titles[0],
            f"{measured.right:,}",
            f"{len(verdicts):,}",
            "in the sample",
            measured.right_share,
            unit="%",
            bar=Bar(_RIGHT_BAR, "at least"),
            note=f"{refused} of them are refused; python -m bench.maskbench says why.",
            samples={"wrong": [verdict.name for verdict in verdicts if not verdict.is_right]},
        ),
        Finding(
            MASKBENCH,
            titles[1],
            f"{measured.accepted_invalid:,}",
            f"{invalid:,}",
            "in the sample",
            measured.accepted_invalid,
            unit="",
            bar=Bar(0, "at most"),
        ),
    ]


def measure_kill(case: Case) -> list[Finding]:
    """The engine's process killed under load: what fails of the host, never ends, or is left behind."""
    note(f"  killing a process {case.kills} times")
    outcome = kill.kill_under_load(kill.Case(case.model, case.kills, threads=case.threads))
    failures = len(outcome.host_failures) + outcome.unended_requests + outcome.leaked_processes
    return [
        Finding(
            KILL,
            f"failures of {case.kills} kills, {model_name(case.model)}",
            f"{failures}",
            f"{outcome.replies + sum(outcome.errors.values()):,} requests",
            "in flight meanwhile",
            failures,
            unit="",
            bar=Bar(0, "at most"),
            note=(
                f"{outcome.replies:,} replies, {sum(outcome.errors.values()):,} EdgeErrors;"
                f" {len(outcome.host_failures)} host failures, {outcome.unended_requests} requests not ended,"
                f" {outcome.leaked_processes} processes left."
            ),
            samples={"kills": outcome.kills, "errors": outcome.errors, "host_failures": outcome.host_failures},
        )
    ]

"""What llama.cpp makes of a file, tried in a child process: native code that aborts ends the child, not the converter.

The child gets one question as JSON on stdin and answers it as JSON on the last line of stdout.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from edge.llama.model import Model

FORWARD_TOKENS = 16
_FORWARD_TEXT = (
    "The bees came back to the garden in April. A beekeeper counts them by the frame, writes the date beside each"
    " number, and knows by June whether the year will be a good one."
)
_CHUNK_TOKENS = 64
_LINES_KEPT = 3
# -P: no module of the current directory; this package is found from a checkout that is not installed, too
_CHILD = (
    "-P",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from convert.trial import main; main()",
    str(Path(__file__).parents[1]),
)

ARGUMENT = "--edge-trial-process"
"""By this argument, an app that is frozen into one executable knows that it is to be the child."""


class TrialTimeoutError(EdgeError):
    """The child did not answer in time."""


def try_in_child(what: str, question: Mapping[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
    """The child's answer. EdgeError if it found something wrong, or if native code ended it: both say so.

    `what` names the attempt in messages, such as "the forward pass".
    """
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # or else it waits for a debugger
    is_frozen = getattr(sys, "frozen", False)  # by PyInstaller and its like: there is no interpreter but the app
    command = [sys.executable, *((ARGUMENT,) if is_frozen else _CHILD)]
    try:
        done = subprocess.run(
            command, input=json.dumps(question).encode(), capture_output=True, timeout=timeout_seconds, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise TrialTimeoutError(
            f"{what.capitalize()} did not end within {timeout_seconds:.0f} seconds.",
            hint="Try again on a machine that is less busy, or leave the proof out with --no-verify.",
        ) from error
    answer = _last_json(done.stdout)
    if done.returncode or answer is None:
        raise EdgeError(
            f"llama.cpp ended its process ({_exit_text(done.returncode)}) during {what}{_last_words(done.stderr)}.",
            hint="The file cannot be run. If the checkpoint is sound, this is an error of the converter: report it.",
        )
    if "error" in answer:
        raise EdgeError(answer["error"], hint=answer["hint"])
    return answer


def _last_json(output: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(output.strip().rpartition(b"\n")[2])
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _exit_text(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _last_words(errors: bytes) -> str:
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {' / '.join(lines[-_LINES_KEPT:])}" if lines else ""


# In the child


def main() -> None:
    """Answer the question on stdin."""
    question = json.load(sys.stdin)
    answers: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "tokens": _answer_tokens,
        "forward": _answer_forward,
        "logits": _answer_logits,
    }
    try:
        answer = answers[question["kind"]](question)
    except EdgeError as error:
        answer = {"error": error.message, "hint": error.hint}
    print(json.dumps(answer))


def _answer_tokens(question: Mapping[str, Any]) -> dict[str, Any]:
    """Every text whose ids differ from those of the tokenizer's own library."""
    import re

    from convert.proof_tokens import SentencePieceOracle, TokenizersOracle, compare_tokens
    from convert.vocabulary import Limitation
    from edge.llama.model import Model

    tokenizer = Path(question["tokenizer"])
    is_json = tokenizer.suffix == ".json"
    oracle = TokenizersOracle(tokenizer) if is_json else SentencePieceOracle(tokenizer, question["user_defined"])
    limitations = [Limitation(words, re.compile(touched)) for words, touched in question["limitations"]]
    with Model(Path(question["path"]), vocabulary_only=True) as model:
        found = compare_tokens(oracle, model.vocab, question["texts"], limitations)
    return asdict(found)


def _answer_forward(question: Mapping[str, Any]) -> dict[str, Any]:
    """The range of the logits or embeddings of a short text. EdgeError if they are not finite, or say nothing."""
    import numpy as np

    with _loaded(Path(question["path"])) as model:
        tokens = _forward_tokens(model)
        values = _outputs(model, tokens, question["threads"], question["gives"])
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise EdgeError(
            f"The forward pass gives {question['gives']} that are no numbers, at token {place + 1} of {len(tokens)}.",
            hint="The weights or the model's shape are wrong: the file cannot be used.",
        )
    if (values == values[:, :1]).all():
        raise EdgeError(
            f"The forward pass gives {question['gives']} that are all the same.",
            hint="The weights are wrong, such as all zero: the file cannot be used.",
        )
    return {"tokens": len(tokens), "smallest": float(values.min()), "largest": float(values.max())}


def _answer_logits(question: Mapping[str, Any]) -> dict[str, Any]:
    """How far the logits are from given ones."""
    from convert.proof_logits import divergence, read_reference_logits

    reference = read_reference_logits(Path(question["reference"]))
    with _loaded(Path(question["path"])) as model:
        reference.check_fits(model.vocab.size, model.trained_context_tokens)
        logits = _outputs(model, reference.tokens.tolist(), question["threads"], "logits")[reference.positions]
    return asdict(divergence(reference.logits, logits))


@contextmanager
def _loaded(path: Path) -> Iterator[Model]:
    from edge.llama.model import Model

    # weights stay in the file's pages: what is repacked for speed would have to fit into memory
    with Model(path, gpu_layers=0, repack_weights=False) as model:
        yield model


def _forward_tokens(model: Model) -> list[int]:
    vocab = model.vocab
    start = [vocab.bos_token] if vocab.add_bos and vocab.bos_token is not None else []
    return [*start, *vocab.tokenize(_FORWARD_TEXT)][: min(FORWARD_TOKENS, model.trained_context_tokens)]


def _outputs(
    model: Model, tokens: list[int], threads: int, gives: Literal["logits", "embeddings"]
) -> npt.NDArray[np.float32]:
    """Logits [tokens, vocabulary] or embeddings [tokens, hidden] with a KV cache in F32, decoded in chunks."""
    import numpy as np

    from edge.llama.context import Batch, Context

    rows = np.empty((len(tokens), model.vocab.size if gives == "logits" else model.hidden_size), np.float32)
    with Context(
        model,
        context_tokens=len(tokens),
        batch_tokens=_CHUNK_TOKENS,
        max_outputs=_CHUNK_TOKENS,
        threads=threads,
        key_type="F32",
        value_type="F32",
        flash_attention="off",
        gives=gives,
    ) as context:
        for first in range(0, len(tokens), _CHUNK_TOKENS):
            chunk = tokens[first : first + _CHUNK_TOKENS]
            batch = Batch(len(chunk), 1)
            batch.add(chunk, sequence=0, position=first, last_logits=True)
            batch.want_all_logits()
            context.decode(batch)
            row_of = context.logits if gives == "logits" else context.embedding
            for index in range(len(chunk)):
                rows[first + index] = row_of(index)
    return rows

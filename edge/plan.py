"""Which of the files that a model can have, with which context, suits a device: the few choices worth having.

Searches quantization, context, types of keys and values, layers on the graphics card, tokens of a step and answers
written at once. Nothing is loaded: memory is predicted, speed follows from bandwidth, quality from a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge.device_profiles import Device
from edge.errors import EdgeError
from edge.fitting import Candidate, Fit, Shortfall, allows, context_of, fit, gpu_shortfall
from edge.quantities import size_text
from edge.quantization_quality import total_cost
from edge.settings import KVType, ModelSettings

Role = Literal["best quality", "longest context", "fastest", "most at once"]

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576)
USUAL_CONTEXT_TOKENS = 8192
STREAM_CONTEXT_TOKENS = 4096
STREAMS = (2, 4, 8, 16)
CACHE_TYPES: tuple[tuple[KVType, KVType], ...] = (("F16", "F16"), ("Q8_0", "Q8_0"), ("Q8_0", "Q4_0"))
READING_SPEED = 6.0
"""Tokens a second below which an answer comes slower than it is read."""
ACCEPTABLE_COST = 0.035
"""Nats that the fastest choice may cost, no more than Q4_K_M does; and with which all layers stay on the card."""
LONG_CONTEXT_COST = 0.05
NOTICEABLE_COST = 0.002
"""Nats that nobody notices: the difference between Q8_0 and 16 bits, in weights and cache together."""
NOTICEABLE_SPEED = 0.9
"""Share of the fastest at which a better quality is taken instead."""
NEARLY_FASTEST = 0.97
SLOWEST_SHARE = 0.6
"""How much slower than an acceptable quantization the best one may be, where none is as fast as one reads."""
UNKNOWN_COST = 1.0


@dataclass(frozen=True)
class PlannedSettings:
    """What a plan chose: the file, and how it is loaded."""

    quantization: str
    context_tokens: int
    parallel: int
    gpu_layers: int
    """As ModelSettings has it: -1 for all."""
    prefill_tokens: int
    key_type: KVType
    value_type: KVType
    gpu_split: tuple[int, ...] = ()
    """Layers on each graphics card, where there are several."""
    repack_weights: bool = True

    def model_settings(self, base: ModelSettings | None = None) -> ModelSettings:
        """Settings with these values, and the others as they are in `base`."""
        return replace(
            base or ModelSettings(),
            context_tokens=self.context_tokens,
            parallel=self.parallel,
            gpu_layers=self.gpu_layers,
            gpu_split=self.gpu_split,
            prefill_tokens=self.prefill_tokens,
            key_type=self.key_type,
            value_type=self.value_type,
            repack_weights=self.repack_weights,
        )


@dataclass(frozen=True)
class Obstacle:
    """The next bigger thing, and why it was not chosen: it does not fit, or it would be slow."""

    what: str
    shortfall: Shortfall | None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Choice:
    roles: tuple[Role, ...]
    fit: Fit
    quality_cost: float | None
    """Mean KL divergence from the unquantized model, in nats; None if it is not known."""
    next_bigger: Obstacle | None

    @property
    def settings(self) -> PlannedSettings:
        return planned_settings(self.fit)


@dataclass(frozen=True)
class Plan:
    device: Device
    choices: tuple[Choice, ...]


def planned_settings(found: Fit) -> PlannedSettings:
    context = found.context
    return PlannedSettings(
        quantization=found.candidate.quantization,
        context_tokens=context.context_tokens,
        parallel=context.sequences,
        gpu_layers=-1 if found.is_whole_on_gpu else found.gpu_layers,
        prefill_tokens=context.batch_tokens,
        key_type=context.key_type,
        value_type=context.value_type,
        gpu_split=found.gpu_split if len(found.gpu_split) > 1 else (),
        repack_weights=found.repack_weights,
    )


def make_plan(candidates: Sequence[Candidate], device: Device, context_tokens: int | None = None) -> Plan:
    """The choices worth having, from best quality to longest context to fastest. EdgeError if nothing fits."""
    search = _Search(candidates, device, context_tokens)
    found: list[tuple[Role, Fit, Obstacle | None]] = []
    quality = search.best_quality()
    found.append(("best quality", quality, search.next_quality(quality)))
    longest = search.longest_context()
    found.append(("longest context", longest, search.next_context(longest)))
    fastest = search.fastest()
    found.append(("fastest", fastest, search.next_quality(fastest) if fastest == quality else None))
    if streams := search.most_streams(fastest):
        found.append(("most at once", streams, search.next_streams(streams)))
    return Plan(device, tuple(_merged(found)))


def _merged(found: Sequence[tuple[Role, Fit, Obstacle | None]]) -> Iterator[Choice]:
    """The same choice made for several reasons is one."""
    for place, (_, chosen, obstacle) in enumerate(found):
        if chosen in [earlier for _, earlier, _ in found[:place]]:
            continue
        same = [other for other in found[place:] if other[1] == chosen]
        obstacles = [other[2] for other in same if other[2]]
        yield Choice(
            roles=tuple(other[0] for other in same),
            fit=chosen,
            quality_cost=fit_cost(chosen),
            next_bigger=obstacle or (obstacles[0] if obstacles else None),
        )


def fit_cost(found: Fit) -> float | None:
    return total_cost(found.candidate.quantization, found.context.key_type, found.context.value_type)


def _cost(candidate: Candidate, types: tuple[KVType, KVType]) -> float:
    cost = total_cost(candidate.quantization, *types)
    return UNKNOWN_COST if cost is None else cost


class _Search:
    """All that fits, once, and the choices among it."""

    def __init__(self, candidates: Sequence[Candidate], device: Device, context_tokens: int | None) -> None:
        self._device = device
        self._trained = max(candidate.model.shape.context_tokens for candidate in candidates)
        if context_tokens is not None and context_tokens > self._trained:
            raise EdgeError(
                f"A context of {context_tokens} tokens was asked for; the model was trained on {self._trained}.",
                hint=f"Ask for at most {self._trained} with --ctx.",
            )
        self._is_given = context_tokens is not None
        self._usual = context_tokens or min(self._trained, USUAL_CONTEXT_TOKENS)
        self._tokens = [self._usual] if self._is_given else context_ladder(self._trained)
        # from the least cost to the highest
        self._options = sorted(
            ((candidate, types) for candidate in candidates for types in CACHE_TYPES if allows(candidate, types)),
            key=lambda option: (_cost(*option), -option[0].model.weights_bytes),
        )
        self._fits = [found for found in self._search() if isinstance(found, Fit)]
        if not self._fits:
            self._refuse()
        most = max(found.context.context_tokens for found in self._fits)
        self._usual = min(self._usual, most)

    def _search(self) -> Iterator[Fit | Shortfall]:
        for candidate, types in self._options:
            for tokens in self._tokens:
                found = self._try(candidate, types, tokens)
                yield found
                if isinstance(found, Shortfall):
                    break  # a longer one takes more

    def _try(
        self, candidate: Candidate, types: tuple[KVType, KVType], tokens: int, sequences: int = 1
    ) -> Fit | Shortfall:
        settings = ModelSettings(key_type=types[0], value_type=types[1])
        return fit(candidate, context_of(tokens, sequences=sequences, settings=settings), self._device)

    # The choices

    def best_quality(self) -> Fit:
        """The least cost at a usual context that answers as fast as one reads, or nearly as fast as any does."""
        usual = [found for found in self._fits if found.context.context_tokens == self._usual]
        on_card = [found for found in usual if found.is_whole_on_gpu and _fit_cost(found) <= ACCEPTABLE_COST]
        return self._extended(_best(on_card or usual, _slowest(on_card or usual)))

    def longest_context(self) -> Fit:
        """The most tokens at a cost that is worth it; of those, the least cost."""
        usual_or_more = [found for found in self._fits if found.context.context_tokens >= self._usual]
        worthwhile = _within(usual_or_more, LONG_CONTEXT_COST)
        most = max(found.context.context_tokens for found in worthwhile)
        longest = [found for found in worthwhile if found.context.context_tokens == most]
        return _best(longest, _slowest(longest))

    def fastest(self) -> Fit:
        """The most tokens a second at a usual context and an acceptable cost."""
        usual = [found for found in self._fits if found.context.context_tokens == self._usual]
        acceptable = _within(usual, ACCEPTABLE_COST)
        fastest = max(found.tokens_per_second for found in acceptable)
        return self._extended(
            min((found for found in acceptable if found.tokens_per_second >= NEARLY_FASTEST * fastest), key=_fit_cost)
        )

    def most_streams(self, alike: Fit) -> Fit | None:
        """As many answers at once as the same file has room for, each with a context of its own; None below two."""
        tokens = min(self._usual, STREAM_CONTEXT_TOKENS)
        found = [self._streams(alike, tokens, count) for count in STREAMS]
        fits = [each for each in found if isinstance(each, Fit) and each.is_whole_on_gpu == alike.is_whole_on_gpu]
        return fits[-1] if fits else None

    def _streams(self, alike: Fit, tokens: int, count: int) -> Fit | Shortfall:
        return self._try(alike.candidate, cache_types(alike), tokens * count, count)

    def _extended(self, chosen: Fit) -> Fit:
        """The same with the longest context that leaves layers and weights as they are, as long as it is readable."""
        floor = min(READING_SPEED, chosen.tokens_per_second)
        alike = (
            found
            for found in self._fits
            if found.candidate is chosen.candidate
            and cache_types(found) == cache_types(chosen)
            and (found.gpu_layers, found.repack_weights) == (chosen.gpu_layers, chosen.repack_weights)
            and found.tokens_per_second >= floor
        )
        return max(alike, key=lambda found: found.context.context_tokens)

    # What would come next

    def next_quality(self, chosen: Fit) -> Obstacle | None:
        """The next better quantization at the same place in the search; None if this is the best there is."""
        types = cache_types(chosen)
        better = [
            candidate
            for candidate, _ in self._options
            if _cost(candidate, types) < _fit_cost(chosen)
            and candidate.model.weights_bytes > chosen.candidate.model.weights_bytes
        ]
        if not better:
            return None
        candidate = better[-1]
        found = self._try(candidate, types, self._usual)
        what = _what(candidate, types, self._usual)
        if isinstance(found, Shortfall):
            return Obstacle(what, found)
        if found.is_whole_on_gpu == chosen.is_whole_on_gpu and _fit_cost(chosen) - _fit_cost(found) <= NOTICEABLE_COST:
            return None  # it would do, and nobody would notice
        context = context_of(self._usual, settings=ModelSettings(key_type=types[0], value_type=types[1]))
        return Obstacle(what, gpu_shortfall(candidate, context, self._device), found.tokens_per_second)

    def next_context(self, chosen: Fit) -> Obstacle | None:
        """The next longer context of the same file; None if the model was trained on no more, or no more is wanted."""
        longer = [tokens for tokens in self._tokens if tokens > chosen.context.context_tokens]
        if not longer:
            return None
        found = self._try(chosen.candidate, cache_types(chosen), longer[0])
        what = f"a context of {longer[0]:,} tokens"
        return Obstacle(what, found) if isinstance(found, Shortfall) else None

    def next_streams(self, chosen: Fit) -> Obstacle | None:
        more = [count for count in STREAMS if count > chosen.context.sequences]
        if not more:
            return None
        tokens = chosen.context.context_tokens // chosen.context.sequences
        found = self._streams(chosen, tokens, more[0])
        what = f"{more[0]} answers at once"
        if isinstance(found, Shortfall):
            return Obstacle(what, found)
        return Obstacle(what, gpu_shortfall(chosen.candidate, found.context, self._device), found.tokens_per_second)

    def _refuse(self) -> None:
        """EdgeError that says by how much the smallest way to run the model is too large."""
        smallest = min(self._options, key=lambda option: option[0].model.weights_bytes)[0]
        types = next(types for types in reversed(CACHE_TYPES) if allows(smallest, types))
        found = self._try(smallest, types, self._tokens[0])
        assert isinstance(found, Shortfall), "something fits after all"
        missing = found.needed_bytes - found.free_bytes
        raise EdgeError(
            f"{smallest.quantization} with {self._tokens[0]:,} tokens of context needs "
            f"{size_text(found.needed_bytes)} of {found.memory}, {size_text(missing)} more than is free.",
            hint="Choose a smaller model, or a device with more memory.",
        )


def _slowest(fits: Sequence[Fit]) -> float:
    """The speed below which better quality is not worth it."""
    return slowest_useful(max(found.tokens_per_second for found in _within(fits, ACCEPTABLE_COST)))


def slowest_useful(fastest: float) -> float:
    """The same, in tokens per second, where what is of acceptable quality reaches `fastest` at most."""
    return min(READING_SPEED, NEARLY_FASTEST * fastest) if fastest >= READING_SPEED else SLOWEST_SHARE * fastest


def _best(fits: Sequence[Fit], slowest: float) -> Fit:
    """The least cost that is fast enough; of those that cost no more to notice, the fastest, or one as good as that."""
    quick = [found for found in fits if found.tokens_per_second >= slowest]
    least = min(_fit_cost(found) for found in quick)
    alike = [found for found in quick if _fit_cost(found) <= least + NOTICEABLE_COST]
    fastest = max(found.tokens_per_second for found in alike)
    return min((found for found in alike if found.tokens_per_second >= NOTICEABLE_SPEED * fastest), key=_fit_cost)


def _fit_cost(found: Fit) -> float:
    return _cost(found.candidate, cache_types(found))


def _within(fits: Sequence[Fit], cost: float) -> Sequence[Fit]:
    """What costs no more; or, where all does, what costs the least."""
    known = [(found, _fit_cost(found)) for found in fits]
    least = min(each for _, each in known)
    return [found for found, each in known if each <= max(cost, least)]


def cache_types(found: Fit) -> tuple[KVType, KVType]:
    return found.context.key_type, found.context.value_type


def context_ladder(trained_tokens: int) -> list[int]:
    """Lengths to try: powers of two up to what the model was trained on, and that."""
    return [*(tokens for tokens in CONTEXTS if tokens < trained_tokens), trained_tokens]


def _what(candidate: Candidate, types: Iterable[KVType], tokens: int) -> str:
    return f"{candidate.quantization} with {tokens:,} tokens of {'/'.join(dict.fromkeys(types))}"

"""How fast decoding could be: the memory bandwidth measured here, and the bytes that each token has to be read for.

Every token of a single stream reads all weights that it uses, and the keys and values before it. Nothing on a processor
goes faster than its memory gives these, unless the weights fit into its caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.gguf_file import GGUFFile
from edge.system_files import read_word

_REPEATS = 5
_LEAST_BYTES = 256 << 20
_CACHES = 2
"""Bytes of the buffers, in caches."""
_LARGEST_SHARE_OF_RAM = 0.25
_TRIAD_BLOCK = 1 << 14  # values that stay in the first cache between the two halves of a triad
_Buffers = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second of main memory with so many threads: the best of several passes of each kind."""

    threads: int
    buffer_bytes: int
    cache_bytes: int
    read: float
    copy: float
    triad: float

    @property
    def highest(self) -> float:
        return max(self.read, self.copy, self.triad)

    @property
    def exceeds_cache(self) -> bool:
        """Whether the buffers were larger than the last cache; if not, part of the figure is the cache's."""
        return self.buffer_bytes > self.cache_bytes


@dataclass(frozen=True)
class Ceiling:
    """What the bandwidth allows one stream to decode."""

    weight_bytes: int
    """That a token uses."""
    cache_bytes: int
    """Keys and values that an average token of the measurement reads."""
    tokens_per_second: float
    weights_exceed_cache: bool
    """If not, the weights may stay in the processor's cache, and decoding may be faster than memory."""


def ceiling(bandwidth: Bandwidth, weight_bytes: int, cache_bytes: int) -> Ceiling:
    tokens_per_second = bandwidth.highest / (weight_bytes + cache_bytes)
    return Ceiling(weight_bytes, cache_bytes, tokens_per_second, weight_bytes > bandwidth.cache_bytes)


def weight_bytes_per_token(file: GGUFFile) -> int:
    """Bytes of the weights that computing one token reads.

    Of embeddings that are only looked up that is a row; of experts, as many as are used.
    """
    total = 0.0
    experts, used = _expert_counts(file)
    for name, tensor in file.tensors.items():
        if name == "token_embd.weight" and "output.weight" in file.tensors:
            continue
        if name == "per_layer_token_embd.weight":
            continue
        total += tensor.n_bytes * (used / experts if "_exps." in name and experts else 1)
    return round(total)


def _expert_counts(file: GGUFFile) -> tuple[int, int]:
    counts = [file.metadata.get(f"{file.architecture}.{name}", 0) for name in ("expert_count", "expert_used_count")]
    experts, used = (count if isinstance(count, int) else 0 for count in counts)
    return experts, used


def measure_bandwidth(threads: int, *, available_bytes: int, root: Path = Path("/")) -> Bandwidth:
    """Read, copy and triad (a = b + s c) over buffers larger than the last cache, with as many threads as decoding."""
    cache_bytes = last_cache_bytes(root)
    wanted = max(_LEAST_BYTES, _CACHES * cache_bytes)
    total = min(wanted, int(available_bytes * _LARGEST_SHARE_OF_RAM))
    return measure_bandwidth_over(threads, buffer_bytes=total, cache_bytes=cache_bytes)


def measure_bandwidth_over(threads: int, *, buffer_bytes: int, cache_bytes: int) -> Bandwidth:
    """The same over buffers of a given size, all of them together."""
    count = max(_TRIAD_BLOCK, buffer_bytes // (3 * 8 * threads))
    with ThreadPoolExecutor(threads) as pool:
        buffers = list(pool.map(lambda _: _new_buffers(count), range(threads)))  # touched by who will read them

        def best(work: Callable[[_Buffers], object], bytes_per_value: int) -> float:
            rates = []
            for _ in range(_REPEATS):
                start = time.perf_counter()
                list(pool.map(work, buffers))
                rates.append(bytes_per_value * count * threads / (time.perf_counter() - start))
            return max(rates)

        return Bandwidth(
            threads,
            buffer_bytes=3 * 8 * count * threads,
            cache_bytes=cache_bytes,
            read=best(_read, 3 * 8),
            copy=best(_copy, 2 * 8),
            triad=best(_triad, 3 * 8),
        )


def last_cache_bytes(root: Path = Path("/")) -> int:
    """The largest cache of the first processor; 0 where the system does not say."""
    sizes = [0]
    for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = read_word(path) or ""
        if text[:-1].isdigit() and text[-1] in "KM":
            sizes.append(int(text[:-1]) * (1 << (10 if text[-1] == "K" else 20)))
    return max(sizes)


def _new_buffers(count: int) -> _Buffers:
    return np.zeros(count) + 1, np.zeros(count) + 2, np.zeros(count) + 3


def _read(buffers: _Buffers) -> None:
    for buffer in buffers:
        np.bitwise_or.reduce(buffer.view(np.int64))


def _copy(buffers: _Buffers) -> None:
    np.copyto(buffers[0], buffers[1])


def _triad(buffers: _Buffers) -> None:
    target, first, second = buffers
    for start in range(0, len(target), _TRIAD_BLOCK):
        block = slice(start, start + _TRIAD_BLOCK)
        np.multiply(second[block], 3.0, out=target[block])
        np.add(target[block], first[block], out=target[block])

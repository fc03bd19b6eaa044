"""The weights of tiny checkpoints: from a tensor's name, the same on every machine."""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt

from tests.tiny.checkpoint import TinyCheckpoint

GAINS = {"q_proj": 1.4, "k_proj": 1.4, "qkv_proj": 1.4, "lm_head": 2.0, "embed_tokens": 2.0}


def tensor_values(checkpoint: TinyCheckpoint, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The weights, bell-shaped, scaled so that attention is far from uniform and every norm and bias matters."""
    values = noise(f"{checkpoint.name}/{name}", math.prod(shape)).reshape(shape)
    if name.endswith(".bias"):
        return values * np.float32(0.5)
    if name.endswith(".weight") and "norm" in name.split(".")[-2]:
        center = checkpoint.norm_center + (0.4 if "q_norm" in name or "k_norm" in name else 0.0)
        gain = checkpoint.gains.get(name.split(".")[-2], 1.0)
        return (values * np.float32(0.25) + np.float32(center)) * np.float32(gain)
    if name.endswith("layer_scalar"):
        return values * np.float32(0.25) + np.float32(1)
    gain = {**GAINS, **checkpoint.gains}.get(name.split(".")[-2], 0.8)
    return values * np.float32(gain / math.sqrt(shape[-1]))


def noise(seed: str, count: int) -> npt.NDArray[np.float32]:
    """Values of mean 0 and deviation 1: sums of four 16-bit numbers.

    They come from the raw bits of the generator, which numpy promises never to change, unlike its distributions.
    """
    raw: npt.NDArray[np.uint64] = np.random.PCG64(zlib.crc32(seed.encode())).random_raw(count)
    sums: npt.NDArray[np.int32] = raw.astype("<u8").view("<u2").reshape(count, 4).sum(axis=1, dtype=np.int32)
    return (sums - 131070).astype(np.float32) * np.float32(math.sqrt(3) / 65536)


def bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even; the values are finite."""
    bits = values.view(np.uint32)
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + rounding) >> np.uint32(16)).astype("<u2")

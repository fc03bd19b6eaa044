from typing import Any

from numpy.typing import NDArray

LAYOUT: tuple[tuple[int, ...], ...]

def run(
    functions: tuple[int, int, int],
    context: int,
    batch: int,
    chooser: tuple[int, NDArray[Any], NDArray[Any], int],
    vocabulary_size: int,
    ends: NDArray[Any],
    chosen: NDArray[Any],
    interruption: bytearray,
    /,
) -> tuple[int, int]: ...

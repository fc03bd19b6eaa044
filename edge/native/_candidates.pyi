from typing import Any

from numpy.typing import NDArray

def likely_candidates(logits: NDArray[Any], count: int, maxima: NDArray[Any], found: NDArray[Any], /) -> int: ...

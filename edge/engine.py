"""The engine that everything runs on."""

from edge.local_engine import LocalEngine as Engine

__all__ = ["Engine"]

"""`python -m tests.tiny FOLDER NAME...` writes tiny checkpoints and adapters into a folder, to try commands on."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.tiny import TINY, write_tiny_checkpoint
from tests.tiny.adapters import ADAPTERS, write_tiny_adapter


def main() -> None:
    folder, *names = sys.argv[1:] or ["--help"]
    if not names or set(names) - TINY.keys() - ADAPTERS.keys():
        sys.exit(f"{__doc__}\nCheckpoints: {', '.join(TINY)}\nAdapters: {', '.join(ADAPTERS)}")
    for name in names:
        write = write_tiny_adapter if name in ADAPTERS else write_tiny_checkpoint
        print(write(name, Path(folder)))


if __name__ == "__main__":
    main()

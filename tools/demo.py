"""The demo: rebuilds a small real checkpoint, converts it to Q8_0 and Q4_K_M, looks inside, and questions both files.

Every step is a command that anyone can type; it is shown before it runs.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from edge.demo import DEMO_NAME, build_demo_checkpoint

FOLDER = Path("demo")
QUESTION = "What is the capital of France?"
SYSTEM = "Answer in one sentence."  # without it, the 4-bit weights of so small a model may drift into French
QUANTIZATIONS = ("Q8_0", "Q4_K_M")


def main() -> None:
    checkpoint = FOLDER / DEMO_NAME
    print(f"A checkpoint as Hugging Face models come: {checkpoint}", flush=True)
    build_demo_checkpoint(checkpoint)
    for path in sorted(checkpoint.glob("[!.]*")):
        print(f"{path.stat().st_size:>14,}  {path.name}")
    files = [FOLDER / f"{DEMO_NAME}-{quantization}.gguf" for quantization in QUANTIZATIONS]
    edge("convert", str(checkpoint), "--quant", ",".join(QUANTIZATIONS), "--out", str(FOLDER), "--force")
    edge("inspect", str(files[-1]))
    for file in files:
        edge("run", str(file), QUESTION, "--system", SYSTEM, "--temperature", "0")


def edge(*arguments: str) -> None:
    """Show an edge command and run it; a command that fails ends the demo with its exit code."""
    print(f"\n$ edge {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "edge.cli", *arguments], check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()

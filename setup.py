"""Builds the optional C modules; everything else about the package is in pyproject.toml."""

import platform
from pathlib import Path

from setuptools import Extension, setup

# x86-64's baseline, which ggml's functions are compiled for, cannot fuse operations: nor may the variants for more.
# Elsewhere both are fused as the compiler likes it.
UNFUSED = ["-ffp-contract=off"] if platform.machine() in ("x86_64", "AMD64") else []

setup(
    ext_modules=[
        Extension(
            "convert._encoder",
            sources=["convert/encoder/encoder.c"],
            depends=sorted(map(str, Path("convert/encoder").glob("*.h"))),
            extra_compile_args=["-O3", "-g0", *UNFUSED, "-fno-math-errno", "-Wno-psabi"],
            optional=True,  # without a compiler ggml's own functions are used
        ),
        Extension(
            "edge.native._candidates",
            sources=["edge/native/candidates.c", "edge/native/likely.c"],
            depends=["edge/native/likely.h"],
            extra_compile_args=["-O3", "-g0", "-Wno-psabi"],
            optional=True,  # without a compiler numpy is used
        ),
        Extension(
            "edge.native._multi_step",
            sources=["edge/native/multi_step.c", "edge/native/likely.c"],
            depends=["edge/native/likely.h"],
            extra_compile_args=["-O3", "-g0", "-Wno-psabi"],
            optional=True,  # without a compiler steps are made one by one
        ),
    ]
)

"""Builds the optional C module; everything else about the package is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "convert._encoder",
            sources=["convert/encoder/encoder.c"],
            depends=sorted(map(str, Path("convert/encoder").glob("*.h"))),
            # no fused multiply-add: the bytes have to be ggml's
            extra_compile_args=["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi"],
            optional=True,  # without a compiler ggml's own functions are used
        )
    ]
)

"""Builds the optional C module; everything else about the package is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "convert._encoder",
            sources=["convert/encoder/encoder.c"],
            depends=[f"convert/encoder/{name}.h" for name in ("blocks", "lanes", "search", "encode")],
            # no fused multiply-add: the bytes have to be ggml's
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi"],
            optional=True,  # without a compiler ggml's own functions are used
        )
    ]
)

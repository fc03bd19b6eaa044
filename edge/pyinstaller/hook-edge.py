"""What of edge no import shows PyInstaller: llama.cpp, modules that are imported by name, files beside them."""

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, copy_metadata, get_package_paths, logger

import edge

_LIBRARY_PATTERNS = ("lib*.so", "lib*.dylib", "*.dll")
_UNUSED = "mtmd"  # what makes tokens of pictures and sounds
# As files: as modules they would bring their package's own code, and with it a client for downloads and much else.
_BINDING = ("_ctypes_extensions.py", "llama_cpp.py")
_IMPORTED_BY_BINDING = ["ctypes", "functools", "pathlib", "typing_extensions"]

_llama_cpp = Path(get_package_paths("llama_cpp")[1])


def _native_libraries() -> list[tuple[str, str]]:
    """libllama, and ggml with all its backends: some are opened by name, so that no other library lists them."""
    folder = _llama_cpp / "lib"
    found = [path for pattern in _LIBRARY_PATTERNS for path in folder.glob(pattern) if _UNUSED not in path.name]
    if not found:
        logger.warning("edge: there are no libraries in %s; the app will not run.", folder)
    return [(str(path), "llama_cpp/lib") for path in sorted(found)]


binaries = _native_libraries()
datas = [
    *((str(_llama_cpp / name), "llama_cpp") for name in _BINDING),
    *collect_data_files("edge", excludes=["pyinstaller/*"]),
    *copy_metadata("edge-llm", recursive=True),  # some packages ask for their own version
]
hiddenimports = [*edge._MODULES.values(), "edge.local_engine", "edge.worker_process", *_IMPORTED_BY_BINDING]

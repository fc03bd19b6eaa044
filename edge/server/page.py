"""The web page at `/`: the files of the folder `page`, and nothing that is not there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from edge.server.errors import RefusedError

FOLDER = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""The page loads nothing from elsewhere and is shown inside of no other."""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index() -> Response:
    return _file("index.html")


@router.get("/page/{name}")
async def file(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    content = _files().get(name)
    if content is None:
        raise RefusedError(
            "There is no such page.", hint="The API is under /v1, its description at /openapi.json.", status=404
        )
    return Response(content, media_type=_TYPES[Path(name).suffix], headers=HEADERS)


@cache
def _files() -> dict[str, bytes]:
    """All that is ever sent, by name: no path of a request is looked up on the disk."""
    if not FOLDER.is_dir():
        return {}
    return {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES and path.is_file()}

"""The browser of these tests. `python -m tests.edge.page.browser` says which it is, or fails if there is none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BUNDLES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
MISSING = (
    "The web page is tested in Chromium, and there is none. Debian: apt install chromium. Elsewhere: install Chrome \
or Chromium, or name one with EDGE_TEST_BROWSER."
)


def find_browser() -> str | None:
    """A browser of Chromium's family; EDGE_TEST_BROWSER names another one."""
    named = os.environ.get("EDGE_TEST_BROWSER")
    found = (path for path in (named, *map(shutil.which, NAMES), *BUNDLES) if path and Path(path).exists())
    return next(found, None)


if __name__ == "__main__":
    sys.exit(None if find_browser() else MISSING)

"""A replica's image, as `make image` makes it of Debian's packages: built once for what goes into it, then cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dragonfly import __version__
from dragonfly.sandbox.cache import Cache, cache_root
from dragonfly.sandbox.toolchain import ToolMissing

_ROOT: Final = Path(__file__).parents[2]
_PARTS: Final = (
    "dragonfly",
    "deploy/image",
    "deploy/k3s/base",
    "deploy/k3s/overlays",
    "deploy/lb/haproxy.cfg",
    "scripts/image",
    "scripts/debian-base",
    "Containerfile",
    "constraints.txt",
    "pyproject.toml",
    "README.md",
)
_NAME: Final = "dragonfly.image.tar"
_KEPT: Final = 24 * 3_600.0
"""Seconds that images of other contents stay: another checkout may be using them."""


def archive() -> Path:
    """What `ctr images import` takes.

    Raises:
        ToolMissing: it can't be built; has the script's last words.
    """
    images = cache_root() / "images"
    cache = Cache(images / _key())
    with cache.locked(lambda: None):
        found = cache.path(_NAME) or _built(cache)
    _forget_others(images, cache.directory)
    return found


def _built(cache: Cache) -> Path:
    with cache.workspace() as workspace:
        done = subprocess.run(
            ["scripts/image", str(workspace)],
            cwd=_ROOT,
            env={**os.environ, "BASE": "debian", "REGISTRY": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ToolMissing(f"scripts/image failed: {done.stderr.strip()[-1_000:]}")
        return cache.put(_NAME, workspace / f"dragonfly-{__version__}.image.tar")


def _key() -> str:
    digest = hashlib.sha256()
    for path in sorted(_files()):
        digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _files() -> Iterator[Path]:
    for part in _PARTS:
        path = _ROOT / part
        found = path.rglob("*") if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _forget_others(images: Path, mine: Path) -> None:
    for other in images.iterdir():
        if other.is_dir() and other != mine and other.stat().st_mtime < time.time() - _KEPT:
            shutil.rmtree(other, ignore_errors=True)


if __name__ == "__main__":
    try:
        print(archive())  # noqa: T201 - for whoever looks for it
    except ToolMissing as error:
        sys.exit(f"dragonfly: {error}")

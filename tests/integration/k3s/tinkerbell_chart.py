"""Tinkerbell's own Helm chart of the pinned version: it is in the Go module that its programs are built from."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from rich.console import Console

from dragonfly.sandbox import golang, toolchain
from dragonfly.sandbox.cache import Cache, cache_root, entry_key
from dragonfly.sandbox.progress import Shown
from tests.integration.k3s.rendered import helm

_MODULE: Final = "github.com/tinkerbell/tinkerbell"


def chart() -> Path:
    """The chart as an archive, fetched into the cache the first time; go.sum has its hash."""
    pins = golang.pins()
    cache = Cache(cache_root() / "bin" / entry_key(pins, ("tinkerbell-chart",)))
    if found := cache.path("tinkerbell.tgz"):
        return found
    with toolchain.built().locked(lambda: None):
        return cache.path("tinkerbell.tgz") or _fetched(cache, pins)


def _fetched(cache: Cache, pins: tuple[bytes, bytes]) -> Path:
    go = golang.find_go(Shown(Console(stderr=True)))
    with cache.workspace() as workspace:
        for name, content in zip(("go.mod", "go.sum"), pins, strict=True):
            (workspace / name).write_bytes(content)
        environment = {
            **os.environ,
            "GOMODCACHE": str(workspace / "modules"),
            "GOFLAGS": "-modcacherw",
            "GOTOOLCHAIN": "local",
        }
        command = [str(go), "mod", "download", "-json", _MODULE]
        told = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, check=True, timeout=300)
        directory = Path(json.loads(told.stdout)["Dir"]) / "helm" / "tinkerbell"
        package = [str(helm()), "package", str(directory), "--destination", str(workspace)]
        subprocess.run(
            [*package, "--version", "0.25.0", "--app-version", "v0.25.0"], capture_output=True, check=True, timeout=60
        )
        return cache.put("tinkerbell.tgz", workspace / "tinkerbell-0.25.0.tgz")

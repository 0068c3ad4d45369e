"""The programs of a Kubernetes node: built with Go beside the sandbox's own, or Debian's.

The sandbox has no node, so `make demo` needs none of them: they are built from its go.mod, into a cache entry of their
own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from dragonfly.sandbox import golang, toolchain
from dragonfly.sandbox.cache import Cache, cache_root, entry_key
from dragonfly.sandbox.progress import Shown

NAMES: Final = ("kubelet", "kube-scheduler", "kube-controller-manager", "kube-proxy")

_ROUGH_MINUTES: Final = 8


def built() -> Mapping[str, Path]:
    """The four programs, built into the cache the first time.

    Raises:
        ToolMissing: they can't be built; says why.
    """
    pins = golang.pins()
    flags = _flags(pins[0].decode())
    cache = Cache(cache_root() / "bin" / entry_key(pins, flags))
    # Under the lock of the sandbox's builds: they share Go's caches.
    with toolchain.built().locked(lambda: None):
        found = {name: path for name in NAMES if (path := cache.path(name))}
        missing = [name for name in NAMES if name not in found]
        return found | (_build(cache, missing, flags) if missing else {})


def _build(cache: Cache, names: list[str], flags: tuple[str, ...]) -> dict[str, Path]:
    progress = Shown(Console(stderr=True))
    try:
        go = golang.find_go(progress)
        with progress.step(f"Building {', '.join(names)} (about {_ROUGH_MINUTES} min)"), cache.workspace() as workspace:
            found = {name: cache.put(name, _one(name, go, workspace, flags)) for name in names}
    except golang.BuildFailed as error:
        raise toolchain.ToolMissing(f"{', '.join(names)}: {error}") from error
    golang.discard_own_caches()
    return found


def _one(name: str, go: Path, workspace: Path, flags: tuple[str, ...]) -> Path:
    package = f"k8s.io/kubernetes/cmd/{name}"
    return golang.build_package(package, golang.pins(), go=go, target=workspace / name, flags=flags)


def _flags(go_mod: str) -> tuple[str, ...]:
    """The sandbox's, with the version: a node without one is taken for one of a version that nobody supports."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v[0-9.]+)", go_mod, re.MULTILINE)
    assert found is not None, "go.mod has no Kubernetes"
    return tuple(
        f"{flag} -X k8s.io/component-base/version.gitVersion={found[1]}" if flag.startswith("-ldflags") else flag
        for flag in golang.BUILD_FLAGS
    )


if __name__ == "__main__":
    try:
        print(*built().values(), sep="\n")  # noqa: T201 - for whoever looks for them
    except toolchain.ToolMissing as error:
        sys.exit(f"dragonfly: {error}")

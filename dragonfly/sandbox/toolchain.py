"""Finds the real programs that the sandbox runs, or builds them.

In this order: the directory `DRAGONFLY_SANDBOX_BIN`; `KUBEBUILDER_ASSETS` (etcd, kube-apiserver and kubectl, as
setup-envtest leaves them); the cache; a download of the archive that the Kubernetes project publishes for tests (the
same three), where there is internet; a build with Go into the cache.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from dragonfly.sandbox import download, golang
from dragonfly.sandbox.cache import Cache, cache_root, entry_key
from dragonfly.sandbox.progress import Progress, Shown, duration

NAMES: Final = tuple(golang.PACKAGES)
_ENVTEST: Final = frozenset({"etcd", "kube-apiserver", "kubectl"})


class ToolMissing(Exception):
    """A program is not there and could not be had; the message says what was tried and what to do."""


def binary(name: str) -> Path:
    """The path of etcd, kube-apiserver, kubectl, tinkerbell or tink-agent, built now if need be (takes minutes).

    Raises:
        ToolMissing: it can't be had.
        DamagedCache: the cached file is not what was built.
    """
    return ensure([name], Shown(Console(stderr=True)))[name]


def ensure(names: Iterable[str], progress: Progress) -> dict[str, Path]:
    """Find all of `names`, and build what is missing.

    Raises:
        ToolMissing: one can't be had.
        DamagedCache: a cached file is not what was built.
    """
    wanted = list(names)
    found = {name: path for name in wanted if (path := find(name))}
    missing = [name for name in wanted if name not in found]
    if missing:
        found |= _obtain(missing, progress)
    return {name: found[name] for name in wanted}


def find(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where `name` is now; nothing is built.

    Raises:
        DamagedCache: the cached file is not what was built.
    """
    for variable in _variables(name):
        candidate = Path(environment.get(variable, "")) / name
        if environment.get(variable) and os.access(candidate, os.X_OK):
            return candidate.absolute()
    return built().path(name) or (downloaded().path(name) if name in download.NAMES else None)


def downloaded() -> Cache:
    """The cache entry of the published archive; it is named by what it holds, so it never mixes with what is built."""
    wanted = download.archive()
    return Cache(cache_root() / "bin" / f"envtest-{wanted.sha512[:16]}" if wanted else cache_root() / "bin" / "envtest")


def built() -> Cache:
    """The cache entry of the pinned versions on this platform."""
    return Cache(cache_root() / "bin" / entry_key(golang.pins(), golang.BUILD_FLAGS))


def _variables(name: str) -> tuple[str, ...]:
    return ("DRAGONFLY_SANDBOX_BIN", *(["KUBEBUILDER_ASSETS"] if name in _ENVTEST else []))


def _obtain(missing: list[str], progress: Progress) -> dict[str, Path]:
    cache = built()
    why_no_download = _download(missing, progress)
    fetched = {name: path for name in missing if (path := find(name))}
    missing = [name for name in missing if name not in fetched]
    with cache.locked(lambda: progress.note("Another process builds the sandbox's programs; waiting for it.")):
        absent = [name for name in missing if cache.path(name) is None]
        try:
            _build_absent(absent, cache, progress)
        except golang.BuildFailed as error:
            raise ToolMissing(_explanation(absent, cache, why_no_download, str(error))) from error
        return fetched | {name: path for name in missing if (path := cache.path(name))}


def _build_absent(absent: list[str], cache: Cache, progress: Progress) -> None:
    if not absent:
        return
    seconds = 60 * sum(golang.rough_minutes(name) for name in absent)
    progress.note(
        f"The sandbox runs the real {', '.join(absent)}. They are built once, from pinned sources, into "
        f"{cache.directory}: about {duration(seconds)} on two cores."
    )
    go = golang.find_go(progress)
    with cache.workspace() as workspace:
        for name in absent:
            with progress.step(f"Building {name} (about {duration(60 * golang.rough_minutes(name))})"):
                cache.put(name, golang.build(name, go, workspace))
    golang.discard_own_caches()


def _download(missing: list[str], progress: Progress) -> str:
    """Put into the cache what is published; return why not, or an empty text."""
    wanted, names = download.archive(), [name for name in missing if name in download.NAMES]
    if wanted is None or not names:
        return "nothing of it is published for this platform"
    cache = downloaded()
    with cache.locked(lambda: progress.note("Another process downloads the sandbox's programs; waiting for it.")):
        if all(cache.path(name) for name in names):
            return ""
        try:
            with (
                progress.step(f"Downloading {', '.join(names)} ({wanted.version}) into {cache.directory}"),
                cache.workspace() as workspace,
            ):
                for name, program in download.fetch(wanted, download.NAMES, workspace).items():
                    cache.put(name, program)
        except download.NoDownload as error:
            progress.note(f"No download: {error}")
            return str(error)
    return ""


def _explanation(absent: list[str], cache: Cache, why_no_download: str, reason: str) -> str:
    lines = [f"{', '.join(absent)} can't be had on this computer. Tried, in this order:"]
    for variable in dict.fromkeys(variable for name in absent for variable in _variables(name)):
        value = os.environ.get(variable)
        lines.append(f"- {variable}: {f'not in {value}' if value else 'not set'}")
    lines += [
        f"- the cache: not in {cache.directory}",
        f"- a download: {why_no_download}",
        f"- a build with Go: {reason}",
        "What helps: a network that reaches PyPI and the Go module proxy (GOPROXY), for this one build; or a computer",
        "where it worked: copy the cache's directory from there to the same place, or anywhere, and set",
        "DRAGONFLY_SANDBOX_BIN to it.",
    ]
    return "\n".join(lines)

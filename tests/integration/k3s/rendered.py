"""What deploy/k3s is to an API server: rendered by kubectl's kustomize, and by a real Helm."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from rich.console import Console

from dragonfly.sandbox import golang, toolchain
from dragonfly.sandbox.cache import Cache, cache_root, entry_key
from dragonfly.sandbox.progress import Shown

K3S: Final = Path(__file__).parents[3] / "deploy" / "k3s"
MODES: Final = ("shared", "dedicated", "external")

KUBERNETES: Final = ("--kube-version", "1.36.3")
"""A Helm that is built like any other program knows of none."""

Object: TypeAlias = dict[str, Any]
Name: TypeAlias = tuple[str, str, str]
"""Kind, namespace and name."""

_PACKAGE: Final = "helm.sh/helm/v3/cmd/helm"


def kustomized(directory: Path) -> dict[Name, Object]:
    """The objects of an overlay."""
    return _objects(_output(str(toolchain.binary("kubectl")), "kustomize", str(directory)))


def templated(*arguments: str, namespace: str = "dragonfly") -> dict[Name, Object]:
    """The objects of the chart with these arguments of `helm template`.

    Raises:
        CalledProcessError: Helm refuses them; its reasons are in `stderr`.
    """
    command = (str(helm()), "template", "dragonfly", str(K3S / "chart"), "-n", namespace, *KUBERNETES, *arguments)
    return _objects(_output(*command))


def helm() -> Path:
    """Helm, built with Go into the cache from the go.mod beside this file, the first time."""
    pins = tuple((Path(__file__).parent / "helm" / name).read_bytes() for name in ("go.mod", "go.sum"))
    cache = Cache(cache_root() / "bin" / entry_key(pins, golang.BUILD_FLAGS))
    if found := cache.path("helm"):
        return found
    progress = Shown(Console(stderr=True))
    # Under the lock of the sandbox's builds: they share Go's caches.
    with toolchain.built().locked(lambda: None):
        return cache.path("helm") or _built(cache, (pins[0], pins[1]), progress)


def _built(cache: Cache, pins: tuple[bytes, bytes], progress: Shown) -> Path:
    go = golang.find_go(progress)
    with progress.step("Building helm (about 2 min)"), cache.workspace() as workspace:
        target = workspace / "helm"
        built = golang.build_package(_PACKAGE, pins, go=go, target=target)
        found = cache.put("helm", built)
    golang.discard_own_caches()
    return found


def _objects(text: str) -> dict[Name, Object]:
    documents = [document for document in yaml.safe_load_all(text) if document]
    named = {name_of(document): document for document in documents}
    assert len(named) == len(documents), "an object stands there twice"
    return named


def name_of(document: Object) -> Name:
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


if __name__ == "__main__":
    print(helm())  # noqa: T201 - for whoever looks for it

"""Servers as Debian ships them, which is what many an operator's `apt-get install` brings: etcd 3.4, and Prometheus.

The packages are downloaded and unpacked into the cache, not installed: installing them would start the servers. So is
a busybox that needs no libraries, for images of nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from dragonfly.sandbox.cache import Cache, cache_root
from dragonfly.sandbox.toolchain import ToolMissing

_PACKAGES: Final = {
    "etcd": "etcd-server",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "busybox": "busybox-static",
}


def etcd() -> Path:
    """As `_program`."""
    return _program("etcd")


def prometheus() -> Path:
    """As `_program`."""
    return _program("prometheus")


def promtool() -> Path:
    """As `_program`."""
    return _program("promtool")


def busybox() -> Path:
    """As `_program`; linked statically."""
    return _program("busybox")


def _program(name: str) -> Path:
    """The installed one, the cached one, or one that is downloaded now.

    Raises:
        ToolMissing: apt-get has no way to it.
    """
    installed = _installed(name)
    # Debian has another busybox at the same place, which needs libraries.
    if name != "busybox" and os.access(installed, os.X_OK):
        return installed
    cache = Cache(cache_root() / "bin" / f"debian-{_PACKAGES[name]}")
    if found := cache.path(name):
        return found
    with cache.locked(lambda: None):
        return cache.path(name) or _fetched(cache, name)


def _fetched(cache: Cache, name: str) -> Path:
    with cache.workspace() as workspace:
        _run(name, "apt-get", "-qq", "download", _PACKAGES[name], inside=workspace)
        (archive,) = workspace.glob("*.deb")
        _run(name, "dpkg-deb", "-x", str(archive), "unpacked", inside=workspace)
        return cache.put(name, workspace / "unpacked" / _installed(name).relative_to("/"))


def _installed(name: str) -> Path:
    """Where the package puts it; what other packages and people install goes elsewhere."""
    return Path("/bin" if name == "busybox" else "/usr/bin") / name


def _run(name: str, *command: str, inside: Path) -> None:
    needed = (
        f"The tests run {name} as Debian ships it. As root run `apt-get update` and try again, or put it at "
        f"{_installed(name)} yourself"
    )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(command, cwd=inside, env=environment, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ToolMissing(f"{needed}: there is no {command[0]} here") from error
    except subprocess.CalledProcessError as error:
        raise ToolMissing(f"{needed}: `{' '.join(command)}` failed: {error.stderr.strip()[-500:]}") from error


if __name__ == "__main__":
    try:
        print(etcd(), prometheus(), promtool(), busybox(), sep="\n")  # noqa: T201 - for whoever looks for them
    except ToolMissing as error:
        sys.exit(f"dragonfly: {error}")

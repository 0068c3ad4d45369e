"""etcd, kube-apiserver and kubectl as the Kubernetes project publishes them for tests, instead of minutes of building.

The archive's SHA-512 is pinned here, from the index that controller-tools keeps of its releases
(https://github.com/kubernetes-sigs/controller-tools/blob/main/envtest-releases.yaml); what differs is thrown away.
There is none of Tinkerbell: that is always built.
"""

import hashlib
import http.client
import os
import platform
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

NAMES: Final = frozenset({"etcd", "kube-apiserver", "kubectl"})

_PATIENCE: Final = 10
"""Seconds without a byte after which there is no internet; a refusal comes at once."""

_BLOCK: Final = 1 << 20


class Archive(NamedTuple):
    """A published archive of all `NAMES`."""

    version: str
    url: str
    sha512: str


class NoDownload(Exception):
    """The archive can't be had, or is not what is pinned; the message says why."""


def _archive(machine: str, sha512: str) -> Archive:
    version = "v1.36.2"
    name = f"envtest-{version}-linux-{machine}.tar.gz"
    base = "https://github.com/kubernetes-sigs/controller-tools/releases/download"
    return Archive(version, f"{base}/envtest-{version}/{name}", sha512)


_ARCHIVES: Final = {
    "x86_64": _archive(
        "amd64",
        "ea743186c8a799f5cf8faf16969f86189d003cb7d130e0ac4b58789f1e5748d"
        "cf30ebe91c837a10d5ac415383da3e10b9e64d65785c938c23e739781cfb76f08",
    ),
    "aarch64": _archive(
        "arm64",
        "2d72ee985a8e262a3c57dc9f7f0fd891f6a8c7bf7ebaa2db6dc6d8eac8ae281"
        "81afe51c1f368b67756cdb40b10de9b205609e1726e5f27f7c6d824dd9c6649ac",
    ),
}


def archive() -> Archive | None:
    """The archive for this platform; None where none is pinned."""
    return _ARCHIVES.get(platform.machine()) if platform.system() == "Linux" else None


def fetch(wanted: Archive, names: Iterable[str], workspace: Path) -> dict[str, Path]:
    """Download the archive, and take the programs out of it into `workspace`.

    Raises:
        NoDownload: there is no way to it, its SHA-512 is not the pinned one, or a program is not in it.
    """
    packed = workspace / "envtest.tar.gz"
    try:
        found = _save(wanted.url, packed)
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise NoDownload(f"{wanted.url} can't be reached: {reason}") from error
    if found != wanted.sha512:
        raise NoDownload(f"{wanted.url} has not the pinned SHA-512, but {found}; it was thrown away")
    return _unpacked(packed, set(names), workspace)


def _save(url: str, target: Path) -> str:
    digest = hashlib.sha512()
    with urllib.request.urlopen(url, timeout=_PATIENCE) as answer, target.open("wb") as file:  # noqa: S310 - pinned
        while block := answer.read(_BLOCK):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _unpacked(packed: Path, names: set[str], workspace: Path) -> dict[str, Path]:
    programs = {}
    with tarfile.open(packed) as content:
        for member in content:
            name = PurePosixPath(member.name).name
            if name in names and (source := content.extractfile(member)) is not None:
                programs[name] = workspace / name
                with programs[name].open("wb") as file:
                    shutil.copyfileobj(source, file)
                os.chmod(programs[name], 0o755)  # noqa: S103, PTH101 - programs for everybody
    if missing := names - programs.keys():
        raise NoDownload(f"{', '.join(sorted(missing))} is not in the archive")
    return programs

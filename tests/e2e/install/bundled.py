"""A directory for `--airgap` of what can be had here: the stand-in for k3s, the chart, and images built on the spot."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from dragonfly.sandbox import toolchain
from tests.integration.k3s.tinkerbell_chart import chart
from tests.node import replica_image, settings
from tests.node.images import idle, of_one_program

_ROOT: Final = Path(__file__).parents[3]
_TINKERBELL: Final = "ghcr.io/tinkerbell/tinkerbell:v0.25.0"
_ETCD: Final = "gcr.io/etcd-development/etcd:v3.7.1"
_KUBE_VIP: Final = "ghcr.io/kube-vip/kube-vip:v1.0.0"
"""Its address is held by the stand-in (`standin_controllers`)."""


def bundle(directory: Path, logs: Path) -> Path:
    """Fill a directory that is not there yet; `logs`: where each host's k3s has a directory for its own."""
    images = directory / "images"
    images.mkdir(parents=True)
    (images / "dragonfly.tar").symlink_to(replica_image.archive())
    for name, content in (
        ("tinkerbell", _program(_TINKERBELL, "tinkerbell", "/usr/bin/tinkerbell")),
        ("etcd", _program(_ETCD, "etcd", "/usr/local/bin/etcd")),
        ("kube-vip", idle(_KUBE_VIP)),
        ("pause", idle(f"docker.io/{settings.PAUSE}")),
    ):
        (images / f"{name}.tar").write_bytes(content)
    shutil.copy(chart(), directory / "tinkerbell.tgz")
    module = f"exec {sys.executable} -m tests.e2e.install.standin_k3s"
    variables = f'export STANDIN_LOGS="{logs}/$(hostname)-logs" PYTHONPATH={_ROOT}'
    script(directory / "k3s", f"{variables}\n{module}")
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    sums = "".join(f"{_sum(file)}  {file.relative_to(directory)}\n" for file in files)
    (directory / "SHA256SUMS").write_text(sums)
    return directory


def script(path: Path, text: str) -> None:
    """Write a program that passes its arguments on to the last command in `text`."""
    path.write_text(f'#!/bin/sh\n{text} "$@"\n')
    path.chmod(0o755)


def _program(image: str, name: str, place: str) -> bytes:
    return of_one_program(image, toolchain.binary(name), place, [place])


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

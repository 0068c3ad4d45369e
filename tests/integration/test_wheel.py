"""The wheel, installed by pip where no checkout is: it brings all that the command line needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from dragonfly import __version__
from dragonfly.cli.errors import Exit
from dragonfly.install.manifests import manifests
from dragonfly.install.options import Options

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")


@pytest.fixture(scope="module")
def bin_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and the pinned versions of its libraries, as `docs/kubernetes.md` says it."""
    directory = tmp_path_factory.mktemp("wheel")
    wheels = directory / "wheels"
    built = (sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    output(*built, within=300)
    (wheel,) = wheels.glob("*.whl")
    venv.create(directory / "venv", with_pip=True)
    found = directory / "venv" / "bin"
    constraints = str(ROOT / "constraints.txt")
    output(str(found / "python"), *PIP, "install", "--constraint", constraints, str(wheel), within=600)
    return found


def output(*command: str, within: float = 120, codes: tuple[int, ...] = (0,), cwd: Path | None = None) -> str:
    """What a program writes that knows nothing of this checkout, nor of any cluster."""
    foreign = ("PYTHON", "DRAGONFLY_", "KUBE", "VIRTUAL_ENV")
    told = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        command,
        env=told,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=within,
    )
    assert done.returncode in codes, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_shows_what_it_would_put_into_a_cluster(bin_: Path, tmp_path: Path) -> None:
    """Whether this computer is one to install on is another question, and so is the exit code."""
    shown = output(
        str(bin_ / "dragonfly"),
        *("install", "--dry-run", "--image", "example/dragonfly:1", "-o", "json"),
        codes=(Exit.OK, Exit.REFUSED),
        cwd=tmp_path,
    )

    found = json.loads(shown)["manifests"]
    assert [obj for obj in manifests(Options(image="example/dragonfly:1")) if obj not in found] == []


def test_it_says_what_it_finds(bin_: Path, tmp_path: Path) -> None:
    assert __version__ in output(str(bin_ / "dragonfly"), "--version", cwd=tmp_path)
    assert "Mode:" in output(
        str(bin_ / "dragonfly"), "status", "--local", codes=(Exit.OK, Exit.FAILED), cwd=tmp_path, within=60
    )

"""The files around the package agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_has_a_pinned_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {normalised(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for group in groups for line in group}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert wanted - {normalised(pin.partition("==")[0]) for pin in pins} == {"dragonfly"}


def test_make_alone_explains_each_target() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout

    explained = re.findall(r"^  make (\w+)\s+\S", shown, re.MULTILINE)
    assert explained == ["help", "demo", "test", "check", "simulate", "image", "fmt", "venv", "clean"]


@pytest.mark.parametrize(
    "script",
    [
        "scripts/ensure-venv",
        "scripts/apt-install",
        "scripts/ensure-test-programs",
        "scripts/image",
        "scripts/debian-base",
        ".ci/run",
    ],
)
def test_scripts_can_be_run(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=60)


def test_an_interpreter_that_is_too_old_is_told(tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 2.7.18 && exit\nexit 1\n')
    old.chmod(0o755)
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/ensure-venv"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())

    done = subprocess.run(
        ["bash", checkout / "scripts" / "ensure-venv", "dev"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stderr == f"dragonfly: PYTHON={old} is Python 2.7.18; Dragonfly needs Python 3.11 or newer.\n"

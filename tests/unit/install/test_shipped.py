"""The manifests come with the package, not only with a checkout."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from dragonfly.install import kustomize, shipped

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("mode", ["shared", "dedicated", "external"])
def test_what_the_wheel_takes_along_is_all_that_is_rendered(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in taken.items():
        if target.startswith("dragonfly/install/"):
            shutil.copytree(ROOT / source, tmp_path / target)
    package = tmp_path / "dragonfly" / "install"
    monkeypatch.setattr("importlib.resources.files", lambda name: package)

    assert shipped.shipped() == package / "deploy"
    in_checkout = kustomize.render(ROOT / "deploy" / "k3s" / "overlays" / mode)
    assert kustomize.render(shipped.shipped() / "overlays" / mode) == in_checkout


def test_a_package_without_them_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda name: tmp_path)

    with pytest.raises(FileNotFoundError, match="install it again"):
        shipped.shipped()

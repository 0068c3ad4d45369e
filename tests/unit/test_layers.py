"""The contracts of import-linter leave no part of Dragonfly out."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {
    f"dragonfly.{path.stem}"
    for path in (ROOT / "dragonfly").iterdir()
    if not path.stem.startswith("__") and (path.suffix == ".py" or (path / "__init__.py").exists())
}


@pytest.mark.parametrize(("library", "owner"), [("etcd3gw", "dragonfly.store"), ("kubernetes", "dragonfly.kube")])
def test_a_client_library_is_kept_from_all_but_the_one_part_that_it_is_behind(library: str, owner: str) -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [one for one in linter["contracts"] if one.get("forbidden_modules") == [library]]

    assert set(contract["source_modules"]) == PARTS - {owner}

"""docs/client.md tells of every method, and its examples are sound."""

import inspect
import re
from pathlib import Path

import pytest

import dragonfly.client
from dragonfly.client import AsyncClient, Client

DOCS = (Path(__file__).parents[3] / "docs/client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


def methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_both_clients_have_the_documented_methods() -> None:
    documented = set(re.findall(r"^\| `(\w+)\(", DOCS, re.MULTILINE))

    assert methods(Client) - {"close"} == documented
    assert methods(AsyncClient) - {"revisions"} == documented


def test_what_the_package_exports_is_told() -> None:
    assert all(f"`{name}`" in DOCS or f"`{name}(" in DOCS for name in dragonfly.client.__all__ if name != "ClientError")


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_can_be_compiled_and_import_what_there_is(example: str) -> None:
    body = "".join(f"    {line}\n" for line in example.splitlines())
    compile(f"async def example(token):\n{body}", "docs/client.md", "exec")
    for name in re.findall(r"from dragonfly.client import (\w+)", example):
        assert hasattr(dragonfly.client, name)

"""docs/client.md tells of every method, and its examples are sound."""

import asyncio
import inspect
import re
from pathlib import Path

import pytest

import dragonfly.client
from dragonfly.client import AsyncClient, Client
from dragonfly.store import keys
from tests.unit.api.replicas import TOKEN, World, mac
from tests.unit.api.streaming import PATIENCE, served, until

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


async def test_the_first_example_ends_with_its_provision_whatever_the_feed_cannot_tell() -> None:
    """The provision ends while the example's position is lost: it is told of that by `reset`, and of the state."""
    replica = World().replica()
    await replica.machine("m-17", mac(17))
    await replica.template("ubuntu-2404")
    told: list[str] = []
    async with served(replica) as url, asyncio.timeout(PATIENCE):
        example = EXAMPLES[0].replace("https://dragonfly.example.com", url)
        scope = {"token": TOKEN, "print": lambda *words: told.append(" ".join(words))}
        running = asyncio.create_task(asyncio.to_thread(exec, example, scope))
        await until(lambda: bool(told))
        (name,) = [held.key.rpartition("/")[2] for held in replica.mirror.under(keys.PROVISIONS)]
        for _ in range(3):
            replica.feed._begin_anew()
            await replica.post("/api/v1/machines/m-17/lock", {"reason": "a change of something else"})
            await replica.post("/api/v1/machines/m-17/unlock", {"reason": "and back"})
        await replica.post(f"/api/v1/provisions/{name}/cancel", {}, 202)
        await running
    await replica.http.aclose()

    assert told[0] == "created Pending"
    assert told[-1].split()[1] == "Cancelled"

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly.sandbox.ports import PortLease
from dragonfly.store.client import EtcdStore
from dragonfly.store.port import Store
from dragonfly.store.settings import EtcdSettings
from tests.contract.container import etcd_in_a_container
from tests.contract.etcds import CURRENT, DEBIAN, Build, Etcds, build
from tests.contract.proxy import Proxy
from tests.contract.relays import RelayedStore, relayed
from tests.contract.worlds import EtcdWorld, World


@pytest.fixture(scope="session")
def ports() -> Iterator[PortLease]:
    with PortLease() as lease:
        yield lease


SharedEtcd = Callable[[str], Etcds]

_CONTAINER = "container"
_RELAY = "relay"


@pytest.fixture(scope="session")
def shared_etcds(tmp_path_factory: pytest.TempPathFactory, ports: PortLease) -> Iterator[SharedEtcd]:
    """One member of each generation that all tests of a worker share, each under a prefix of its own."""
    started: dict[str, Etcds] = {}

    def shared(generation: str) -> Etcds:
        if generation not in started:
            started[generation] = Etcds(tmp_path_factory.mktemp("etcd"), ports, build(generation))
            started[generation].start()
        return started[generation]

    try:
        yield shared
    finally:
        for etcds in started.values():
            etcds.stop()


@pytest.fixture(params=[CURRENT, DEBIAN])
def generation(request: pytest.FixtureRequest) -> str:
    """Every test of the client runs against both."""
    return str(request.param)


@pytest.fixture
def etcd_build(generation: str) -> Build:
    return build(generation)


@pytest.fixture
def shared_etcd(shared_etcds: SharedEtcd, generation: str) -> Etcds:
    """Nobody stops it."""
    return shared_etcds(generation)


@pytest.fixture
def prefix() -> str:
    return f"/{uuid.uuid4().hex}/"


@pytest.fixture(params=["direct", "relay"])
async def settings(
    request: pytest.FixtureRequest, shared_etcd: Etcds, prefix: str, tmp_path: Path
) -> AsyncIterator[EtcdSettings]:
    """To etcd itself, or through a relay."""
    direct = shared_etcd.settings(prefix)
    if request.param == "direct":
        yield direct
        return
    async with relayed(direct, tmp_path) as running:
        yield running.settings


@pytest.fixture
def etcds(tmp_path: Path, ports: PortLease, etcd_build: Build) -> Iterator[Callable[..., Etcds]]:
    """Starts an etcd of the test's own, to be killed, paused or filled."""
    started: list[Etcds] = []

    def start(**options: Any) -> Etcds:
        directory = tmp_path / f"etcd{len(started)}"
        directory.mkdir()
        started.append(Etcds(directory, ports, etcd_build, **options))
        started[-1].start()
        return started[-1]

    try:
        yield start
    finally:
        for etcd in started:
            etcd.stop()


@pytest.fixture
def proxies() -> Iterator[Callable[[int], Proxy]]:
    opened: list[Proxy] = []

    def open_(target: int) -> Proxy:
        opened.append(Proxy(target))
        return opened[-1]

    yield open_
    for proxy in opened:
        proxy.close()


@pytest.fixture
async def stores() -> AsyncIterator[Callable[[EtcdSettings], EtcdStore]]:
    opened: list[EtcdStore] = []

    def open_(settings: EtcdSettings) -> EtcdStore:
        opened.append(EtcdStore(settings))
        return opened[-1]

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory, ports: PortLease) -> Iterator[str]:
    """The URL of an etcd in a container."""
    # A socket's path has 108 bytes at most.
    with etcd_in_a_container(tmp_path_factory.mktemp("d"), ports) as url:
        yield url


@pytest.fixture
def contained_settings(container: str, prefix: str) -> EtcdSettings:
    return EtcdSettings(endpoints=(container,), prefix=prefix)


@pytest.fixture(
    params=[
        pytest.param(CURRENT, marks=pytest.mark.etcd),
        pytest.param(DEBIAN, marks=pytest.mark.etcd),
        pytest.param(_RELAY, marks=pytest.mark.etcd),
        pytest.param(_CONTAINER, marks=[pytest.mark.docker, pytest.mark.slow]),
    ]
)
async def world(
    request: pytest.FixtureRequest, shared_etcds: SharedEtcd, prefix: str, tmp_path: Path
) -> AsyncIterator[World]:
    """What the store's contract is checked against; a container is only started for those that ask for it."""
    if request.param == _RELAY:
        direct = shared_etcds(CURRENT).settings(prefix)
        async with relayed(direct, tmp_path) as running:
            through = EtcdWorld(running.settings, lambda settings: RelayedStore(settings, direct))
            yield through
            await through.close()
        return
    contained = request.param == _CONTAINER
    world = EtcdWorld(
        request.getfixturevalue("contained_settings") if contained else shared_etcds(request.param).settings(prefix)
    )
    yield world
    await world.close()


@pytest.fixture
def store(world: World) -> Store:
    return world.store()

"""Where a `Store` comes from, so that one set of cases runs against real etcd and against the simulator's model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from dragonfly.store.client import EtcdStore
from dragonfly.store.port import Store
from dragonfly.store.settings import EtcdSettings
from tests.contract.waiting import until_async


class World(Protocol):
    def store(self) -> Store:
        """Another client of the same, initially empty, store."""
        ...

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Let time go on until the condition holds; fail if it never does."""
        ...

    async def close(self) -> None: ...


class EtcdWorld:
    def __init__(self, settings: EtcdSettings, connect: Callable[[EtcdSettings], EtcdStore] = EtcdStore) -> None:
        self._settings = settings
        self._connect = connect
        self._stores: list[EtcdStore] = []

    def store(self) -> Store:
        self._stores.append(self._connect(self._settings))
        return self._stores[-1]

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        await until_async(condition, what)

    async def close(self) -> None:
        for store in self._stores:
            await store.close()

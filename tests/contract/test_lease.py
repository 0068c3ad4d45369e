"""A replica's lease on real etcd, kept, lost and given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from dragonfly.store.client import EtcdStore
from dragonfly.store.lease import LeaseKeeper, boottime
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Put
from tests.contract.etcds import Etcds
from tests.contract.proxy import Proxy
from tests.contract.waiting import until, until_async

pytestmark = pytest.mark.etcd


_TTL = 12
"""Seconds; far more than the least: a busy computer may leave a process without a turn for some of them."""


class Kept:
    def __init__(self, store: EtcdStore) -> None:
        self.ids: list[int] = []
        self.keeper = LeaseKeeper(
            store.gateway,
            asyncio.get_running_loop(),
            ttl=_TTL,
            margin=0.5,
            clock=boottime,
            on_new=self.ids.append,
        )

    @property
    def held(self) -> bool:
        return self.keeper.held(boottime())


@pytest.fixture
async def keep(stores: Callable[[EtcdSettings], EtcdStore]) -> AsyncIterator[Callable[[EtcdSettings], Kept]]:
    started: list[Kept] = []

    def start(settings: EtcdSettings) -> Kept:
        started.append(Kept(stores(settings)))
        started[-1].keeper.start()
        return started[-1]

    yield start
    for kept in started:
        await kept.keeper.close()


async def test_a_kept_lease_outlives_its_ttl_and_goes_with_its_keys_when_given_up(
    settings: EtcdSettings, stores: Callable[..., EtcdStore], keep: Callable[..., Kept]
) -> None:
    store = stores(settings)
    kept = keep(settings)
    await until(lambda: kept.ids != [], "a lease is granted")
    await store.commit(Put("members/a", b"", lease=kept.keeper.id))
    granted = kept.keeper.valid_until

    await until(lambda: kept.keeper.valid_until > granted + _TTL, "it was kept alive for more than its TTL")
    held = [kept.held]
    assert kept.ids == [kept.keeper.id]

    await kept.keeper.close()
    assert [*held, kept.held] == [True, False]
    assert (await store.read("members/a"))[0] is None


async def test_closed_without_revoking_the_keys_stay_until_the_lease_expires(
    settings: EtcdSettings, stores: Callable[..., EtcdStore], keep: Callable[..., Kept]
) -> None:
    store = stores(settings)
    kept = keep(settings)
    await until(lambda: kept.ids != [], "a lease is granted")
    await store.commit(Put("members/a", b"", lease=kept.keeper.id))

    await kept.keeper.close(revoke=False)

    assert not kept.held
    assert (await store.read("members/a"))[0] is not None

    async def gone() -> bool:
        return (await store.read("members/a"))[0] is None

    await until_async(gone, "the lease expires")


async def test_a_lost_lease_is_replaced_and_told(
    settings: EtcdSettings, stores: Callable[..., EtcdStore], keep: Callable[..., Kept]
) -> None:
    store = stores(settings)
    kept = keep(settings)
    await until(lambda: kept.ids != [], "a lease is granted")

    await store.revoke(kept.ids[0])
    await until(lambda: len(kept.ids) == 2, "a new lease is granted")

    assert kept.keeper.id == kept.ids[1] != kept.ids[0]
    assert kept.held
    await store.commit(Put("members/a", b"", lease=kept.keeper.id))


async def test_cut_off_the_lease_is_given_up_before_etcd_lets_it_expire(
    shared_etcd: Etcds,
    prefix: str,
    stores: Callable[..., EtcdStore],
    keep: Callable[..., Kept],
    proxies: Callable[[int], Proxy],
) -> None:
    """P10: by its own clock a replica stops before another can have taken over; then it gets a new lease."""
    proxy = proxies(shared_etcd.ports[0])
    store = stores(shared_etcd.settings(prefix))
    kept = keep(shared_etcd.settings(prefix, endpoints=(proxy.url,)))
    await until(lambda: kept.ids != [], "a lease is granted")
    await store.commit(Put("claims/c/0", b"", lease=kept.keeper.id))

    proxy.freeze()
    held_while_gone: list[bool] = []

    async def gone() -> bool:
        item, _ = await store.read("claims/c/0")
        held_while_gone.append(kept.held and item is None)
        return item is None

    await until_async(gone, "etcd deletes the claim")
    assert not any(held_while_gone)
    assert not kept.held
    assert kept.keeper.error is not None
    proxy.disconnect()
    proxy.thaw()
    await until(lambda: len(kept.ids) == 2, "a new lease is granted")
    assert kept.held


async def test_a_frozen_endpoint_does_not_cost_the_lease(
    shared_etcd: Etcds, prefix: str, keep: Callable[..., Kept], proxies: Callable[[int], Proxy]
) -> None:
    frozen = proxies(shared_etcd.ports[0])
    kept = keep(shared_etcd.settings(prefix, endpoints=(frozen.url, *shared_etcd.urls)))
    await until(lambda: kept.ids != [], "a lease is granted")
    granted = kept.keeper.valid_until

    frozen.freeze()
    always_held: list[bool] = []

    def renewed() -> bool:
        always_held.append(kept.held)
        return kept.keeper.valid_until > granted + _TTL + 0.5

    await until(renewed, "the other endpoint keeps it alive")
    assert all(always_held)
    assert len(kept.ids) == 1


async def test_a_margin_that_leaves_no_time_is_refused(
    settings: EtcdSettings, stores: Callable[..., EtcdStore]
) -> None:
    with pytest.raises(ValueError, match="margin"):
        LeaseKeeper(
            stores(settings).gateway,
            asyncio.get_running_loop(),
            ttl=3,
            margin=2.0,
            clock=boottime,
            on_new=lambda _: None,
        )

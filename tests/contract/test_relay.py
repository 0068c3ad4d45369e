"""The relay in front of a real etcd: who is let in, what is kept from whom, and how its end looks from outside."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from dragonfly.relay.relay import MOST_WATCHES
from dragonfly.store.client import EtcdStore
from dragonfly.store.errors import Denied, LeaseLost, Rejected, Unavailable
from dragonfly.store.replica_tokens import HEADER
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Put
from tests.contract.etcds import CURRENT, Etcds
from tests.contract.relays import TOKEN, Relayed, relayed
from tests.contract.waiting import until, until_async
from tests.unit.api.replicas import TOKEN as ADMIN

pytestmark = pytest.mark.etcd

_REFUSED = 403


@pytest.fixture
def direct(shared_etcds: Callable[[str], Etcds], prefix: str) -> EtcdSettings:
    return shared_etcds(CURRENT).settings(prefix)


@pytest.fixture
async def relay(direct: EtcdSettings, tmp_path: Path) -> AsyncIterator[Relayed]:
    async with relayed(direct, tmp_path) as running:
        yield running


@pytest.fixture
async def http(relay: Relayed) -> AsyncIterator[httpx.AsyncClient]:
    """Another replica's way in, as bare HTTP."""
    async with httpx.AsyncClient(base_url=f"{relay.url}/v3/", headers={HEADER: TOKEN}, timeout=20) as client:
        yield client


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _watch(prefix: str) -> dict[str, Any]:
    end = prefix[:-1] + "0"
    return {"create_request": {"key": _b64(prefix), "range_end": _b64(end)}}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {HEADER: "another-token-of-16"},
        {HEADER: TOKEN[:-1]},
        {HEADER: ""},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"Bearer {ADMIN}"},
        {HEADER: ADMIN},
    ],
)
async def test_without_a_replicas_token_nobody_comes_in(relay: Relayed, prefix: str, headers: dict[str, str]) -> None:
    """Not even with the admin's; and every path asks for it, also those that there are not."""
    async with httpx.AsyncClient(base_url=f"{relay.url}/v3/", headers=headers) as client:
        for path in ("kv/range", "kv/txn", "watch", "maintenance/status", "no/such"):
            answer = await client.post(path, json={"key": _b64(prefix)})
            assert (answer.status_code, answer.json()["code"]) == (401, 16)


async def test_a_replicas_token_opens_nothing_but_the_relay(relay: Relayed) -> None:
    headers = {HEADER: TOKEN, "Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=relay.url.removesuffix("/etcd"), headers=headers) as client:
        for path in ("/api/v1/machines", "/etcd", "/etcd/version", "/etcd/v2/keys", "/etcd/v3"):
            assert (await client.get(path)).status_code == 401


async def test_a_token_is_changed_without_a_gap(
    relay: Relayed, stores: Callable[[EtcdSettings], EtcdStore], tmp_path: Path
) -> None:
    (theirs := tmp_path / "theirs").write_text(f"{TOKEN}\n")
    ours = relay.settings.replica_token_file
    assert ours is not None
    store = stores(msgspec.structs.replace(relay.settings, replica_token_file=theirs))

    await store.read("k")
    ours.write_text(f"{TOKEN}\na-new-token-that-is-longer\n")
    await store.read("k")
    theirs.write_text(f"a-new-token-that-is-longer\n{TOKEN}\n")
    await store.read("k")
    ours.write_text("a-new-token-that-is-longer\n")
    await store.read("k")
    theirs.write_text(f"{TOKEN}\n")
    with pytest.raises(Denied, match="not valid"):
        await store.read("k")
    theirs.unlink()
    with pytest.raises(Denied, match="cannot read"):
        await store.read("k")


async def test_keys_of_others_are_neither_read_nor_written_nor_watched(
    relay: Relayed, direct: EtcdSettings, http: httpx.AsyncClient, stores: Callable[[EtcdSettings], EtcdStore]
) -> None:
    other = "/registry" + direct.prefix
    stranger = stores(msgspec.structs.replace(direct, prefix=other))
    revision = await stranger.commit(Put("secret", b"1"))
    key = _b64(f"{other}secret")

    refused = [
        await http.post("kv/range", json={"key": key}),
        await http.post("kv/range", json={"key": _b64(direct.prefix), "range_end": "AA==", "limit": 10}),
        await http.post("kv/txn", json={"success": [{"request_put": {"key": key, "value": _b64("x")}}]}),
        await http.post("kv/txn", json={"failure": [{"request_range": {"key": key}}]}),
        await http.post("watch", json=_watch(other)),
    ]

    assert [answer.status_code for answer in refused] == [_REFUSED] * len(refused)
    through = stores(msgspec.structs.replace(relay.settings, prefix=other))
    with pytest.raises(Denied):
        await through.read("secret")
    with pytest.raises(Denied):
        await through.commit(Put("secret", b"x"))
    item, _ = await stranger.read("secret")
    assert item is not None
    assert (item.value, item.mod_revision) == (b"1", revision)


async def test_a_lease_of_others_is_left_alone(
    relay: Relayed, direct: EtcdSettings, stores: Callable[[EtcdSettings], EtcdStore]
) -> None:
    stranger = stores(msgspec.structs.replace(direct, prefix="/registry" + direct.prefix))
    lease = (await stranger.grant(600)).id
    await stranger.commit(Put("on-lease", b"1", lease))
    through = stores(relay.settings)
    await through.commit(Put("attached", b"1", lease))

    with pytest.raises(Denied):
        await through.revoke(lease)
    with pytest.raises(Denied):
        await through.keep_alive(lease)

    assert (await stranger.read("on-lease"))[0] is not None
    with pytest.raises(LeaseLost):
        await through.keep_alive(lease + 1)


async def test_compaction_and_what_else_is_etcds_own_is_refused(
    relay: Relayed, stores: Callable[[EtcdSettings], EtcdStore], http: httpx.AsyncClient
) -> None:
    with pytest.raises(Rejected, match="compaction"):
        await stores(relay.settings).compact(1)
    for path in ("maintenance/snapshot", "auth/user/add", "lease/leases", "kv/put", "kv/deleterange"):
        assert (await http.post(path, json={})).status_code == 404
    assert (await http.get("kv/range")).status_code == 404


async def test_a_replica_that_is_cut_off_says_at_once_that_nothing_was_done(
    relay: Relayed, stores: Callable[[EtcdSettings], EtcdStore], direct: EtcdSettings
) -> None:
    """So the other goes on elsewhere, with writes too."""
    through = stores(msgspec.structs.replace(relay.settings, timeout=3.0))
    await through.commit(Put("k", b"1"))

    relay.away = Unavailable("no answer in time")
    with pytest.raises(Unavailable, match="did not ask etcd") as caught:
        await through.commit(Put("k", b"2"))
    assert not caught.value.maybe_written

    relay.away = None
    await through.commit(Put("k", b"3"))
    item, _ = await stores(direct).read("k")
    assert item is not None
    assert (item.value, item.version) == (b"3", 2)


async def test_a_relay_whose_etcd_is_gone_tells_so_in_time(
    etcds: Callable[..., Etcds], tmp_path: Path, prefix: str, stores: Callable[[EtcdSettings], EtcdStore]
) -> None:
    etcd = etcds()
    async with relayed(etcd.settings(prefix), tmp_path) as running:
        through = stores(msgspec.structs.replace(running.settings, timeout=5.0))
        await through.commit(Put("k", b"1"))
        etcd.stop()

        with pytest.raises(Unavailable) as caught:
            await through.commit(Put("k", b"2"))
        assert not caught.value.maybe_written  # the connection was refused

        etcd.start()
        await until_async(lambda: _writes(through), "it goes on with the next etcd")


async def test_a_relay_does_not_go_through_a_relay(
    relay: Relayed, tmp_path: Path, stores: Callable[[EtcdSettings], EtcdStore]
) -> None:
    """Behind a load balancer it might be its own."""
    (tmp_path / "second").mkdir()
    async with relayed(relay.settings, tmp_path / "second") as second:
        with pytest.raises(Unavailable, match="goes through a relay itself"):
            await stores(msgspec.structs.replace(second.settings, timeout=3.0)).read("k")


async def test_watches_end_with_whoever_reads_them_and_have_a_limit(
    relay: Relayed, http: httpx.AsyncClient, prefix: str
) -> None:
    request: dict[str, Any] = {"url": "watch", "json": _watch(prefix)}
    opened = [await http.send(http.build_request("POST", **request), stream=True) for _ in range(MOST_WATCHES)]
    assert {answer.status_code for answer in opened} == {200}
    assert (await http.post(**request)).status_code == 429

    await opened[0].aclose()
    await until(lambda: _watches(relay) == MOST_WATCHES - 1, "the watch of who left ends")
    again = await http.send(http.build_request("POST", **request), stream=True)

    assert again.status_code == 200
    for answer in (*opened[1:], again):
        await answer.aclose()
    await until(lambda: _watches(relay) == 0, "no watch is left")


async def test_who_does_not_read_is_waited_for_and_others_are_not(
    relay: Relayed, http: httpx.AsyncClient, prefix: str, stores: Callable[[EtcdSettings], EtcdStore]
) -> None:
    """32 MiB come for one that takes nothing; another call is answered, and what it takes later has no gap."""
    store = stores(relay.settings)
    async with http.stream("POST", "watch", json=_watch(prefix)) as slow:
        lines = slow.aiter_lines()
        assert '"created":true' in await anext(lines)
        written = [await store.commit(Put("large", b"x" * 1_000_000)) for _ in range(32)]

        await asyncio.wait_for(store.read("large"), 10)

        seen: list[int] = []
        while len(seen) < len(written):
            events = msgspec.json.decode(await anext(lines))["result"].get("events", [])
            seen += [int(event["kv"]["mod_revision"]) for event in events]
        assert seen == written


async def test_an_end_of_the_relay_ends_its_watches(relay: Relayed, http: httpx.AsyncClient, prefix: str) -> None:
    async with http.stream("POST", "watch", json=_watch(prefix)) as watch:
        lines = watch.aiter_lines()
        await anext(lines)

        await relay.relay.close()

        assert [line async for line in lines] == []
    refused = await http.post("kv/range", json={"key": _b64(prefix)})
    assert (refused.status_code, refused.json()["code"]) == (503, 14)


def _watches(relay: Relayed) -> float:
    open_now: float = relay.metrics.watches._value.get()
    return open_now


async def _writes(store: EtcdStore) -> bool:
    try:
        await store.commit(Put("k", b"later"))
    except Unavailable:
        return False
    return True

"""The client against a real etcd that fails in the ways that etcd and networks do."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import PortLease
from dragonfly.store.client import EtcdStore
from dragonfly.store.errors import Behind, Denied, NoSpace, OtherEtcd, StoreError, Unavailable
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Absent, Delete, Put
from tests.contract.etcds import CURRENT, DEBIAN, Etcds, tls_flags
from tests.contract.proxy import Proxy
from tests.contract.waiting import until_async

pytestmark = pytest.mark.etcd


def _post(url: str, path: str, body: object, token: str = "") -> dict[str, Any]:
    # etcd 3.4 takes an empty token for a wrong one.
    headers = {"Authorization": token} if token else {}
    request = urllib.request.Request(f"{url}/v3/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def _login(url: str, name: str, password: str) -> str:
    return str(_post(url, "auth/authenticate", {"name": name, "password": password})["token"])


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_what_debian_ships_is_an_older_etcd(
    shared_etcds: Callable[[str], Etcds], prefix: str, stores: Callable[..., EtcdStore]
) -> None:
    """Otherwise all of this would be shown twice for one."""

    async def version(generation: str) -> list[int]:
        (member,) = await stores(shared_etcds(generation).settings(prefix)).status()
        return [int(part) for part in member.version.split(".")]

    assert [3, 4] <= await version(DEBIAN) < await version(CURRENT)


async def test_the_lost_answer_of_a_committed_write_is_told_and_read_back_finds_it(
    shared_etcd: Etcds, prefix: str, stores: Callable[..., EtcdStore], proxies: Callable[[int], Proxy]
) -> None:
    proxy = proxies(shared_etcd.ports[0])
    store = stores(shared_etcd.settings(prefix, endpoints=(proxy.url,)))
    _, before = await store.read("k")

    proxy.lose_next_answer()
    with pytest.raises(Unavailable) as caught:
        await store.commit(Put("k", b"mine"), given=[Absent("k")])

    assert proxy.lost.is_set()
    assert caught.value.maybe_written
    item, _ = await store.read("k")
    assert item is not None
    assert (item.value, item.version) == (b"mine", 1)
    assert item.mod_revision > before


async def test_the_lost_answer_of_a_read_is_asked_for_again(
    shared_etcd: Etcds, prefix: str, stores: Callable[..., EtcdStore], proxies: Callable[[int], Proxy]
) -> None:
    proxy = proxies(shared_etcd.ports[0])
    store = stores(shared_etcd.settings(prefix, endpoints=(proxy.url,)))
    await store.commit(Put("k", b"1"))

    proxy.lose_next_answer()
    item, _ = await store.read("k")

    assert proxy.lost.is_set()
    assert item is not None


async def test_a_write_that_can_not_have_been_sent_goes_to_the_next_endpoint(
    shared_etcd: Etcds, prefix: str, stores: Callable[..., EtcdStore], ports: PortLease
) -> None:
    nobody = f"http://127.0.0.1:{ports.take()}"
    store = stores(shared_etcd.settings(prefix, endpoints=(nobody, *shared_etcd.urls)))

    await store.commit(Put("k", b"1"))

    assert [member.reachable for member in await store.status()] == [False, True]


async def test_with_nobody_there_a_write_surely_did_not_happen(
    stores: Callable[..., EtcdStore], ports: PortLease
) -> None:
    nobody = f"http://127.0.0.1:{ports.take()}"
    store = stores(EtcdSettings(endpoints=(nobody,), timeout=0.3))

    with pytest.raises(Unavailable) as caught:
        await store.commit(Put("k", b"1"))

    assert not caught.value.maybe_written


async def test_a_frozen_endpoint_costs_a_read_one_attempt_and_a_write_its_deadline(
    shared_etcd: Etcds, prefix: str, stores: Callable[..., EtcdStore], proxies: Callable[[int], Proxy]
) -> None:
    frozen = proxies(shared_etcd.ports[0])
    endpoints = (frozen.url, *shared_etcd.urls)
    first = stores(shared_etcd.settings(prefix, endpoints=endpoints, attempt_timeout=3.0, timeout=60.0))
    second = stores(
        shared_etcd.settings(prefix, endpoints=endpoints, attempt_timeout=3.0, timeout=10.0, quarantine=60.0)
    )
    await asyncio.gather(first.read("k"), second.read("k"))
    frozen.freeze()

    begun = time.monotonic()
    await first.read("k")
    assert time.monotonic() - begun > 2.5, "it went to the frozen one"

    with pytest.raises(Unavailable) as caught:
        await second.commit(Put("k", b"1"))
    assert caught.value.maybe_written
    await second.commit(Put("k", b"2"))  # the frozen one is in quarantine


async def test_three_members_go_on_when_the_leader_is_killed(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore]
) -> None:
    """Every write that was told to have happened is there, in order; the others say that they may have."""
    etcd = etcds(members=3)
    store = stores(etcd.settings())
    leader = next(n for n, member in enumerate(await store.status()) if member.leader)
    done: list[int] = []
    unsure: set[int] = set()

    for number in range(100):
        if number == 30:
            etcd.members[leader].kill()
        try:
            await store.commit(Put(f"n/{number:03}", b""))
            done.append(number)
        except Unavailable as error:
            if error.maybe_written:
                unsure.add(number)

    found = [int(item.key[2:]) for item in (await store.range("n/")).items]
    assert set(done) <= set(found) <= set(done) | unsure
    assert len(done) > 90

    async def two_are_there() -> bool:
        status = await store.status()
        return (sum(member.reachable for member in status), sum(member.leader for member in status)) == (2, 1)

    await until_async(two_are_there, "two are reachable, and one of them leads")


async def test_a_member_without_quorum_is_left_and_its_refusal_is_no_maybe(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore]
) -> None:
    etcd = etcds(members=3)
    store = stores(etcd.settings(endpoints=etcd.urls[:1], timeout=10.0))
    await store.commit(Put("k", b"1"))
    for member in etcd.members[1:]:
        member.signal(signal.SIGSTOP)

    async def refused_for_sure() -> bool:
        try:
            await store.commit(Put("k", b"2"))
        except Unavailable as error:
            return not error.maybe_written
        return False

    await until_async(refused_for_sure, "the member says that it has no leader", within=60)
    for member in etcd.members[1:]:
        member.signal(signal.SIGCONT)

    async def writes() -> bool:
        try:
            await store.commit(Put("k", b"3"))
        except StoreError:
            return False
        return True

    await until_async(writes, "the member has a leader again", within=60)


async def test_tls_with_client_certificates(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore], tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "pki", "etcd", dt.datetime.now(dt.UTC))
    server, client = authority.server("server", also_client=True), authority.client("dragonfly")
    etcd = etcds(scheme="https", flags=tls_flags(authority.ca, server))

    store = stores(etcd.settings(ca_file=authority.ca, cert_file=client.certificate, key_file=client.key))
    await store.commit(Put("k", b"1"))
    assert (await store.range("")).items

    stranger = Authority(tmp_path / "other", "other", dt.datetime.now(dt.UTC))
    with pytest.raises(Unavailable):  # no client certificate
        await stores(etcd.settings(ca_file=authority.ca, timeout=2.0)).read("k")
    mistrusting = stores(etcd.settings(ca_file=stranger.ca, timeout=2.0))
    await until_async(lambda: _mistrusts(mistrusting), "it tells why")


async def test_renewed_certificates_are_taken_up_without_a_restart(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore], tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "pki", "etcd", dt.datetime.now(dt.UTC))
    stranger = Authority(tmp_path / "other", "other", dt.datetime.now(dt.UTC))
    server, good, bad = authority.server("server", also_client=True), authority.client("a"), stranger.client("a")
    etcd = etcds(scheme="https", flags=tls_flags(authority.ca, server))
    ca, certificate, key = (tmp_path / name for name in ("ca", "certificate", "key"))
    ca.write_bytes(stranger.ca.read_bytes())
    certificate.write_bytes(bad.certificate.read_bytes())
    key.write_bytes(bad.key.read_bytes())
    store = stores(etcd.settings(ca_file=ca, cert_file=certificate, key_file=key, timeout=2.0))
    await until_async(lambda: _mistrusts(store), "it tells why")

    ca.write_bytes(authority.ca.read_bytes())
    certificate.write_bytes(good.certificate.read_bytes())
    with pytest.raises(Unavailable):  # the key is still the former one
        await store.read("k")
    key.write_bytes(good.key.read_bytes())

    await until_async(lambda: _reads(store), "the store reads", within=60)
    for link in (certificate, key):
        link.unlink()
    await until_async(lambda: _reads(store), "it reads without the files, too")


async def _mistrusts(store: EtcdStore) -> bool:
    """Whether it fails for its peer's certificate; a busy etcd may not have shown that before a call's time is over."""
    with pytest.raises(Unavailable) as caught:
        await store.read("k")
    return "CERTIFICATE_VERIFY_FAILED" in str(caught.value)


async def _reads(store: EtcdStore) -> bool:
    try:
        await store.read("k")
    except StoreError:
        return False
    return True


async def test_user_and_password_with_token_renewal(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore], tmp_path: Path
) -> None:
    """A changed password voids the user's tokens; the client reads the new one and nobody notices."""
    etcd = etcds()
    url = etcd.urls[0]
    _post(url, "auth/user/add", {"name": "root", "password": "root"})
    _post(url, "auth/user/grant", {"user": "root", "role": "root"})
    _post(url, "auth/user/add", {"name": "dragonfly", "password": "correct"})
    _post(url, "auth/role/add", {"name": "dragonfly"})
    permission = {"permType": "READWRITE", "key": _b64("/dragonfly/"), "range_end": _b64("/dragonfly0")}
    _post(url, "auth/role/grant", {"name": "dragonfly", "perm": permission})
    _post(url, "auth/user/grant", {"user": "dragonfly", "role": "dragonfly"})
    _post(url, "auth/enable", {})
    password = tmp_path / "password"
    password.write_text("correct\n")

    store = stores(etcd.settings(username="dragonfly", password_file=password))
    await store.commit(Put("k", b"1"))
    lease = await store.grant(60)
    first = store.gateway._shared.credentials._token
    password.write_text("changed\n")
    _post(url, "auth/user/changepw", {"name": "dragonfly", "password": "changed"}, _login(url, "root", "root"))
    # A stream's refusal is wrapped otherwise than a call's.
    assert await store.keep_alive(lease.id) == lease.ttl
    await asyncio.gather(*(store.commit(Put(f"k{number}", b"2")) for number in range(16)))
    second = store.gateway._shared.credentials._token
    assert "" not in {first, second}
    assert first != second

    stranger = stores(etcd.settings(prefix="/elsewhere/", username="dragonfly", password_file=password))
    with pytest.raises(Denied, match="permission denied"):
        await stranger.commit(Put("k", b""))
    with pytest.raises(Denied):
        await stores(etcd.settings()).read("k")
    password.write_text("wrong")
    with pytest.raises(Denied, match="password"):
        await stores(etcd.settings(username="dragonfly", password_file=password)).read("k")


async def test_a_full_etcd_says_so_and_still_reads_and_deletes(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore]
) -> None:
    etcd = etcds(flags={"quota-backend-bytes": str(4 << 20)})
    store = stores(etcd.settings())
    await store.commit(Put("small", b"1"))

    async def fill() -> None:
        for number in range(20):
            await store.commit(Put(f"k{number}", b"x" * (1 << 20)))

    with pytest.raises(NoSpace):
        await fill()

    assert (await store.read("small"))[0] is not None
    await store.commit(Delete("small"))
    assert (await store.status())[0].error


async def test_another_etcd_behind_the_same_address_stops_everything_for_good(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore], proxies: Callable[[int], Proxy]
) -> None:
    one, other = etcds(), etcds()
    proxy = proxies(one.ports[0])
    store = stores(one.settings(endpoints=(proxy.url,)))
    await store.commit(Put("k", b"1"))

    proxy._target = other.ports[0]
    proxy.disconnect()
    with pytest.raises(OtherEtcd):
        await store.read("k")
    proxy._target = one.ports[0]
    proxy.disconnect()
    with pytest.raises(OtherEtcd):
        await store.read("k")


async def test_an_etcd_restored_from_a_backup_is_not_taken_for_what_it_was(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore], tmp_path: Path
) -> None:
    """Its cluster id is the same, and its revisions soon are those that were seen: of another history."""
    etcd = etcds()
    before, other = stores(etcd.settings(timeout=10.0)), stores(etcd.settings())
    await before.commit(Put("k", b"1"))
    etcd.members[0].stop()
    shutil.copytree(etcd.data(0), tmp_path / "backup")
    etcd.members[0].start()
    for _ in range(10):
        await before.commit(Put("k", b"of the former history"))
    _, seen = await before.read("k")

    etcd.members[0].stop()
    shutil.rmtree(etcd.data(0))
    shutil.copytree(tmp_path / "backup", etcd.data(0))
    etcd.members[0].start()
    with pytest.raises(Behind, match="start this replica again"):
        await before.read("k")
    while (await other.commit(Put("k", b"of the new history"))) <= seen:
        pass

    with pytest.raises(Behind, match="start this replica again") as caught:
        await before.commit(Put("k", b"of the former history"))
    assert not caught.value.maybe_written
    item, _ = await stores(etcd.settings()).read("k")
    assert item is not None
    assert item.value == b"of the new history"


async def test_a_call_that_close_takes_out_of_the_pool_fails_as_any_other(
    shared_etcd: Etcds, prefix: str, stores: Callable[..., EtcdStore], proxies: Callable[[int], Proxy]
) -> None:
    """More calls than threads: those that wait for one must not look like a cancelled task."""
    frozen = proxies(shared_etcd.ports[0])
    store = stores(shared_etcd.settings(prefix, endpoints=(frozen.url,), threads=1))
    await store.read("k")
    frozen.freeze()
    waiting = [asyncio.create_task(store.read("k")) for _ in range(3)]
    await asyncio.sleep(0)

    await store.close()

    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(failure) for failure in failures} == {Unavailable}


async def test_after_close_calls_fail_at_once(
    shared_etcd: Etcds, prefix: str, stores: Callable[..., EtcdStore], proxies: Callable[[int], Proxy]
) -> None:
    frozen = proxies(shared_etcd.ports[0])
    store = stores(shared_etcd.settings(prefix, endpoints=(frozen.url,), timeout=120.0, attempt_timeout=120.0))
    await store.read("k")
    frozen.freeze()
    waiting = asyncio.create_task(store.read("k"))
    await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await store.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await store.commit(Put("k", b""))

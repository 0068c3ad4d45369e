"""A mirror kept current by a watch of real etcd, through everything that breaks one (P8)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from dragonfly.store import keys
from dragonfly.store.client import EtcdStore
from dragonfly.store.errors import Behind, Unavailable
from dragonfly.store.follow import Follower
from dragonfly.store.mirror import Mirror, Update
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Delete, Put
from tests.contract.etcds import Build, Etcds
from tests.contract.proxy import Proxy
from tests.contract.waiting import until

pytestmark = pytest.mark.etcd


class Following:
    """A mirror, its follower, and all that subscribers were told."""

    def __init__(self, settings: EtcdSettings) -> None:
        self.undecodable: list[str] = []
        self.updates: list[Update] = []
        self.resets: list[int] = []
        self.store = EtcdStore(settings)
        self.mirror = Mirror(
            lambda _, value: value.decode(),
            clock=time.monotonic,
            on_undecodable=lambda key, _: self.undecodable.append(key),
        )
        self.mirror.subscribe("", self.updates.append, on_reset=self.resets.append)
        self.follower = Follower(self.store, self.store.gateway, self.mirror, jitter=lambda: 0.0)

    async def current(self) -> None:
        await until(lambda: self.mirror.synced and self.mirror.stale_since is None, "the mirror is current")

    async def stop(self) -> None:
        await self.follower.stop()
        await self.store.close()

    @property
    def shown(self) -> dict[str, object]:
        return {held.key: held.object for held in self.mirror.under("")}


@pytest.fixture
async def follow() -> AsyncIterator[Callable[[EtcdSettings], Following]]:
    started: list[Following] = []

    def start(settings: EtcdSettings) -> Following:
        started.append(Following(settings))
        return started[-1]

    yield start
    for following in started:
        await following.stop()


async def test_a_mirror_shows_what_was_there_and_what_comes(
    settings: EtcdSettings, stores: Callable[..., EtcdStore], follow: Callable[..., Following]
) -> None:
    store = stores(settings)
    await store.commit(Put("machines/m-1", b"1"), Put("machines/m-2", b"1"))
    following = follow(settings)
    await following.follower.start()
    await following.mirror.wait_for(1, 60)

    revision = await store.commit(Put("machines/m-1", b"2"), Delete("machines/m-2"), Put("machines/m-3", b"\xff"))
    await following.mirror.wait_for(revision, 60)

    assert following.shown["machines/m-1"] == "2"
    assert [held.key for held in following.mirror.under("machines/")] == ["machines/m-1", "machines/m-3"]
    assert following.undecodable == ["machines/m-3"]
    await following.current()


async def test_a_watch_resumes_across_a_restart_of_etcd_without_gap_or_duplicate(
    etcds: Callable[..., Etcds],
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
    proxies: Callable[[int], Proxy],
) -> None:
    """What is written while the follower is away arrives later, once, in order."""
    etcd = etcds()
    proxy = proxies(etcd.ports[0])
    store = stores(etcd.settings())
    following = follow(etcd.settings(endpoints=(proxy.url,)))
    await following.follower.start()
    await following.current()
    await store.commit(Put("n", b"0"))

    etcd.members[0].kill()
    await until(lambda: following.mirror.stale_since is not None, "the mirror knows that it is stale")
    proxy.freeze()
    etcd.members[0].start()
    revision = 0
    for number in range(1, 51):
        revision = await store.commit(Put("n", str(number).encode()))
    proxy.disconnect()
    proxy.thaw()
    await following.mirror.wait_for(revision, 60)

    assert [update.held.object for update in following.updates if update.held] == [str(n) for n in range(51)]
    assert all(a.revision < b.revision for a, b in pairwise(following.updates))
    assert len(following.resets) == 1, "it was resumed, not begun anew"
    await following.current()


async def test_compaction_while_disconnected_is_a_reset_and_then_right_again(
    etcds: Callable[..., Etcds],
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
    proxies: Callable[[int], Proxy],
) -> None:
    etcd = etcds()
    proxy = proxies(etcd.ports[0])
    store = stores(etcd.settings())
    await store.commit(Put("kept", b"1"), Put("gone", b"1"))
    following = follow(etcd.settings(endpoints=(proxy.url,)))
    await following.follower.start()
    await following.current()

    proxy.freeze()
    proxy.disconnect()
    await until(lambda: following.mirror.stale_since is not None, "the mirror knows that it is stale")
    await store.commit(Put("new", b"1"), Delete("gone"))
    revision = await store.commit(Put("new", b"2"))
    await store.compact(revision)
    following.updates.clear()
    proxy.disconnect()
    proxy.thaw()
    await following.mirror.wait_for(revision, 60)

    assert len(following.resets) == 2
    assert following.resets[1] >= revision
    assert {(update.key, update.held and update.held.object) for update in following.updates} == {
        ("new", "2"),
        ("gone", None),
    }
    assert following.shown == {"kept": "1", "new": "2"}
    await store.commit(Put("after", b"1"))
    await until(lambda: following.shown.get("after") == "1", "the watch goes on after the reset")


async def test_a_deletion_at_the_very_revision_that_is_compacted_is_not_missed(
    etcds: Callable[..., Etcds],
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
    proxies: Callable[[int], Proxy],
) -> None:
    """etcd lets a watch begin at the compacted revision, and some versions have forgotten what was deleted there."""
    etcd = etcds()
    proxy = proxies(etcd.ports[0])
    store = stores(etcd.settings())
    await store.commit(Put("kept", b"1"), Put("active/m", b"1"))
    following = follow(etcd.settings(endpoints=(proxy.url,), quiet=60.0, silence=60.0))
    await following.follower.start()
    await following.current()

    proxy.freeze()
    proxy.disconnect()
    await until(lambda: following.mirror.stale_since is not None, "the mirror knows that it is stale")
    revision = await store.commit(Delete("active/m"))
    assert revision == following.mirror.revision + 1, "the deletion is the next that the watch is to bring"
    await store.compact(revision)
    proxy.disconnect()
    proxy.thaw()
    await following.mirror.wait_for(revision, 60)

    assert following.shown == {"kept": "1"}


async def test_a_watch_goes_on_where_the_compacted_revision_is_its_own(
    etcds: Callable[..., Etcds],
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
    proxies: Callable[[int], Proxy],
) -> None:
    """Nothing that it lacks is forgotten then: no snapshot is taken, and what it knows is not told again."""
    etcd = etcds()
    proxy = proxies(etcd.ports[0])
    store = stores(etcd.settings())
    following = follow(etcd.settings(endpoints=(proxy.url,), quiet=60.0, silence=60.0))
    await following.follower.start()
    await following.current()
    compacted = await store.commit(Put("n", b"1"))
    await following.mirror.wait_for(compacted, 60)

    proxy.freeze()
    proxy.disconnect()
    await until(lambda: following.mirror.stale_since is not None, "the mirror knows that it is stale")
    await store.compact(compacted)
    revision = await store.commit(Put("n", b"2"))
    proxy.disconnect()
    proxy.thaw()
    await following.mirror.wait_for(revision, 60)

    assert [update.held.object for update in following.updates if update.held] == ["1", "2"]
    assert len(following.resets) == 1


@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_bytes_may_be_cut_anywhere(
    cut: int,
    shared_etcd: Etcds,
    settings: EtcdSettings,
    prefix: str,
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
    proxies: Callable[[int], Proxy],
) -> None:
    """Chunks and lines end where the network likes, in the middle of a line and of a character."""
    proxy = proxies(shared_etcd.ports[0])
    proxy.cut = cut
    store = stores(settings)
    await store.commit(Put("machines/Zürich-東京", "Grüße".encode()))
    following = follow(shared_etcd.settings(prefix, endpoints=(proxy.url,)))
    await following.follower.start()
    await following.current()

    values = ["日本語 🜂 " * repeat for repeat in (1, 30, 300)]
    revision = 0
    for number, value in enumerate(values):
        revision = await store.commit(Put(f"größe/{number}", value.encode()))
    await following.mirror.wait_for(revision, 60)

    assert following.shown == {
        "machines/Zürich-東京": "Grüße",
        **{f"größe/{number}": value for number, value in enumerate(values)},
    }
    assert len(following.resets) == 1


async def test_ten_thousand_keys_in_pages_and_then_live(
    settings: EtcdSettings, stores: Callable[..., EtcdStore], follow: Callable[..., Following]
) -> None:
    store = stores(msgspec.structs.replace(settings, page=997))
    names = [f"machines/m-{number:05}" for number in range(10_000)]
    batches = [names[start : start + 100] for start in range(0, len(names), 100)]
    await asyncio.gather(*(store.commit(*(Put(name, name.encode()) for name in batch)) for batch in batches))

    snapshot = await store.range("machines/")
    assert [item.key for item in snapshot.items] == names
    following = follow(settings)
    await following.follower.start()
    await following.current()
    assert following.mirror.count("machines/") == 10_000
    await asyncio.gather(*(store.commit(*map(Delete, batch)) for batch in batches[:50]))
    revision = await store.commit(Put("machines/m-99999", b"last"))
    await following.mirror.wait_for(revision, 60)

    assert [held.key for held in following.mirror.under("machines/")] == [*names[5000:], "machines/m-99999"]


async def test_one_revision_larger_than_a_fragment_is_never_half_applied(
    settings: EtcdSettings, stores: Callable[..., EtcdStore], follow: Callable[..., Following]
) -> None:
    """etcd splits an answer of more than 1.5 MiB plus 512 KiB into fragments; keys change together or not at all."""
    store = stores(settings)
    following = follow(settings)
    await following.follower.start()
    await following.current()
    torn: list[int] = []
    members = [f"k/{number:03}" for number in range(14)]

    def look(update: Update) -> None:
        versions = {held.object[0] for held in following.mirror.under("k/") if isinstance(held.object, str)}
        if len(versions) > 1 or following.mirror.count("k/") != len(members):
            torn.append(update.revision)

    following.mirror.subscribe("k/", look)
    revision = 0
    for version in "abc":
        revision = await store.commit(*(Put(key, version.encode() * 100_000) for key in members))
    await following.mirror.wait_for(revision, 60)

    assert torn == []
    assert len(following.updates) == 3 * len(members)


async def test_a_stream_that_died_without_a_sign_is_noticed_and_replaced(
    shared_etcd: Etcds,
    prefix: str,
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
    proxies: Callable[[int], Proxy],
) -> None:
    """The peer vanished: no FIN, no RST. The next endpoint takes over within `silence`."""
    dead, alive = proxies(shared_etcd.ports[0]), proxies(shared_etcd.ports[0])
    store = stores(shared_etcd.settings(prefix))
    following = follow(
        shared_etcd.settings(prefix, endpoints=(dead.url, alive.url), silence=6.0, quiet=0.4, attempt_timeout=3.0)
    )
    await following.follower.start()
    await following.current()

    dead.freeze()
    begun = time.monotonic()
    revision = await store.commit(Put("k", b"1"))
    await following.mirror.wait_for(revision, 60)

    assert time.monotonic() - begun >= 0.1, "it came through the dead stream"
    assert following.shown["k"] == "1"
    assert len(following.resets) == 1


async def test_an_idle_watch_is_proved_by_a_progress_key_that_nobody_sees(
    settings: EtcdSettings, stores: Callable[..., EtcdStore], follow: Callable[..., Following]
) -> None:
    """The position of an idle prefix moves on, and the stream is never taken for dead."""
    following = follow(msgspec.structs.replace(settings, silence=6.0, quiet=0.2))
    with structlog.testing.capture_logs() as logs:
        await following.follower.start()
        await following.current()
        opened = following.follower.state.since

        await until(lambda: following.mirror.revision >= following.resets[0] + 8, "the progress key is written")

    assert told_of_marks(logs) == 1, "once, whoever runs etcd is told how to spare it that"
    assert following.shown == {}
    assert following.updates == []
    assert following.follower.state.since == opened, "the stream stayed"
    assert (await stores(settings).read(keys.PROGRESS))[0] is not None


async def test_where_etcd_marks_its_watches_an_idle_swarm_writes_nothing(
    etcds: Callable[..., Etcds],
    etcd_build: Build,
    prefix: str,
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
) -> None:
    marking = etcds(flags={etcd_build.marks_flag: "100ms"})
    settings = marking.settings(prefix, silence=6.0, quiet=2.0)
    following = follow(settings)
    with structlog.testing.capture_logs() as logs:
        await following.follower.start()
        await following.current()
        watch = following.follower._watch
        assert watch is not None
        store = stores(settings)
        heard = max(watch.heard, following.follower._heard)
        await until(lambda: watch.heard > heard, "the first mark comes")
        marked, (_, revision) = watch.heard, await store.read(keys.PROGRESS)

        await until(lambda: watch.heard > marked + 3 * settings.quiet, "marks come for longer than the patience lasts")

    assert (await store.read(keys.PROGRESS))[1] == revision
    assert following.follower.state.connected
    assert told_of_marks(logs) == 0


def told_of_marks(logs: Sequence[MutableMapping[str, Any]]) -> int:
    return sum(line["event"] == "etcd.watches_not_marked" for line in logs)


async def test_a_mirror_behind_at_reconnect_counts_as_stale_until_it_caught_up(
    shared_etcd: Etcds, prefix: str, stores: Callable[..., EtcdStore], follow: Callable[..., Following]
) -> None:
    """Others write to a shared etcd; their revisions bring no change under the prefix, the progress key does."""
    following = follow(shared_etcd.settings(prefix, quiet=60.0, silence=60.0))
    await following.follower.start()
    await following.current()
    other = stores(shared_etcd.settings("/other" + prefix))
    revision = 0
    for _ in range(3):
        revision = await other.commit(Put("k", b""))
    watch = following.follower._watch
    assert watch is not None
    watch._gateway.endpoints[0].session.close()  # breaks the stream; the session takes no new one
    await until(lambda: following.mirror.stale_since is not None, "the mirror knows that it is stale")
    watch._gateway.endpoints[0].session._closed = False

    await following.current()

    assert following.mirror.revision > revision


async def test_a_mirror_that_is_doubted_is_stale_until_a_write_has_come_back(
    shared_etcd: Etcds, prefix: str, follow: Callable[..., Following], proxies: Callable[[int], Proxy]
) -> None:
    """A stream that froze looks like a quiet one; whoever knows better says so (P10)."""
    proxy = proxies(shared_etcd.ports[0])
    following = follow(shared_etcd.settings(prefix, endpoints=(proxy.url,)))
    await following.follower.start()
    await following.current()

    proxy.freeze()
    following.follower.doubt()
    assert following.mirror.stale_since is not None
    shown = following.mirror.revision
    proxy.thaw()

    await following.current()
    assert following.mirror.revision > shown


async def test_stop_is_prompt_and_leaves_the_mirror_stale(
    settings: EtcdSettings, follow: Callable[..., Following]
) -> None:
    """It waits for nothing that it would wait for otherwise."""
    following = follow(msgspec.structs.replace(settings, silence=120.0, quiet=120.0))
    await following.follower.start()
    await following.current()

    async with asyncio.timeout(60):
        await following.follower.stop()

    assert following.mirror.stale_since is not None


async def test_the_watch_moves_on_when_its_member_dies(
    etcds: Callable[..., Etcds], stores: Callable[..., EtcdStore], follow: Callable[..., Following]
) -> None:
    """What a member's death leaves unsure is written again; the mirror shows all, in order, each revision once."""
    etcd = etcds(members=3)
    store = stores(etcd.settings(timeout=2.0))
    following = follow(etcd.settings())
    await following.follower.start()
    await following.current()
    values = [str(number) for number in range(60)]

    async def write(value: str) -> int:
        while True:
            with contextlib.suppress(Unavailable):
                return await store.commit(Put("n", value.encode()))

    revision = 0
    for value in values:
        if value == "20":
            etcd.members[0].kill()  # the one that both are connected to
        revision = await write(value)
    await following.mirror.wait_for(revision, 60)

    shown = [update.held.object for update in following.updates if update.held]
    assert list(dict.fromkeys(shown)) == values
    assert shown == sorted(shown, key=lambda value: int(str(value)))
    assert all(a.revision < b.revision for a, b in pairwise(following.updates))
    assert len(following.resets) == 1


async def test_a_mirror_is_not_taken_into_another_history(
    etcds: Callable[..., Etcds],
    stores: Callable[..., EtcdStore],
    follow: Callable[..., Following],
    tmp_path: Path,
) -> None:
    """etcd is restored from a backup under a follower that asks for nothing, and goes on to the revisions of before."""
    etcd = etcds()
    store = stores(etcd.settings())
    await store.commit(Put("n", b"0"))
    etcd.members[0].stop()
    shutil.copytree(etcd.data(0), tmp_path / "backup")
    etcd.members[0].start()
    following = follow(etcd.settings(timeout=1.5))
    await following.follower.start()
    for _ in range(10):
        await store.commit(Put("n", b"former"))
    _, seen = await store.read("n")
    await following.mirror.wait_for(seen, 60)

    etcd.members[0].stop()
    shutil.rmtree(etcd.data(0))
    shutil.copytree(tmp_path / "backup", etcd.data(0))
    etcd.members[0].start()
    await until(lambda: isinstance(following.follower.state.error, Behind), "the follower says so")
    later = stores(etcd.settings())
    while (await later.commit(Put("n", b"latter"))) <= seen + 5:
        pass

    with pytest.raises(TimeoutError):
        await following.mirror.wait_for(seen + 5, 3)
    assert following.shown["n"] == "former"
    assert following.mirror.stale_since is not None

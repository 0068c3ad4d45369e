"""ETA, conditions, and the fence that every write goes through."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dragonfly.controllers.conditions import not_synced, synced, with_condition
from dragonfly.controllers.eta import Durations
from dragonfly.controllers.fence import Fence, NotOwner, Precondition, precondition_of, together
from dragonfly.kube.resources import WORKFLOW, Ref
from dragonfly.model.machine import Condition
from dragonfly.model.provision import Provision, ProvisionPhase, ProvisionSpec, ProvisionStatus
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.errors import Conflict
from dragonfly.store.values import Put, Unchanged
from dragonfly.swarm.shards import ShardId
from tests.unit.store_model import StoreModel
from tests.virtual_time import now, play

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def run(seconds: float | None, template: str = "t", phase: ProvisionPhase = "Succeeded") -> Provision:
    status = ProvisionStatus(
        phase=phase,
        running_at=NOW if seconds is not None else None,
        finished_at=NOW + timedelta(seconds=seconds or 0),
    )
    return Provision(
        metadata=Metadata(name="p", created_at=NOW, updated_at=NOW),
        spec=ProvisionSpec(machine="m", template=template, template_revision=1),
        status=status,
    )


class TestEta:
    def test_without_a_run_nobody_knows(self) -> None:
        assert Durations().eta("t", NOW) is None

    def test_it_is_the_median_of_the_runs_of_that_template(self) -> None:
        durations = Durations()
        for seconds in (100, 9_000, 120):
            durations.learn(run(seconds))
        durations.learn(run(5, template="other"))

        assert durations.eta("t", LATER) == LATER + timedelta(seconds=120)

    def test_only_success_teaches(self) -> None:
        durations = Durations()
        durations.learn(run(10, phase="Failed"))
        durations.learn(run(10, phase="Running"))
        durations.learn(run(None))

        assert durations.eta("t", NOW) is None

    def test_old_runs_are_forgotten(self) -> None:
        durations = Durations()
        for seconds in [1_000] * 20 + [10] * 20:
            durations.learn(run(seconds))

        assert durations.eta("t", NOW) == NOW + timedelta(seconds=10)


class TestConditions:
    other = Condition(type="Other", status="True", reason="r", since=NOW)

    def test_a_new_one_is_added(self) -> None:
        assert with_condition((self.other,), synced(NOW)) == (self.other, synced(NOW))

    def test_what_only_got_older_is_the_very_same(self) -> None:
        held = (synced(NOW), self.other)

        assert with_condition(held, synced(LATER)) == held

    def test_another_reason_of_the_same_status_keeps_its_time(self) -> None:
        held = (not_synced("Rejected", "a", NOW), self.other)

        changed = with_condition(held, not_synced("ForeignObject", "b", LATER))

        assert changed == (not_synced("ForeignObject", "b", NOW), self.other)

    def test_another_status_is_new(self) -> None:
        assert with_condition((not_synced("R", "a", NOW),), synced(LATER)) == (synced(LATER),)


class Calls:
    """A cluster that takes note of what it is asked."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def __getattr__(self, verb: str) -> Any:
        async def call(*what: Any, **how: Any) -> dict[str, Any]:
            self.made.append((verb, *what, how))
            return {}

        return call


SHARD = ShardId("local", 0)
REF = Ref(WORKFLOW, "ns", "w")
SEEN = Precondition("u-1", "7")


class Slow:
    """A cluster in which every write waits for its turn before it is sent."""

    def __init__(self, seconds: float) -> None:
        self.sent: list[str] = []
        self._seconds = seconds

    def __getattr__(self, verb: str) -> Any:
        async def call(*_: Any, **__: Any) -> dict[str, Any]:
            await asyncio.sleep(self._seconds)
            self.sent.append(verb)
            return {}

        return call


def fence(kube: Any, *, current: int | None, store: StoreModel | None = None) -> Fence:
    return Fence(store or StoreModel(), kube, SHARD, 5, lambda _shard: current)


class TestFence:
    @pytest.mark.parametrize("current", [None, 4, 6])
    @pytest.mark.parametrize("verb", ["commit", "create", "apply", "patch", "delete"])
    def test_no_write_without_the_claim_or_under_another_epoch(self, verb: str, current: int | None) -> None:
        kube, store = Calls(), StoreModel()
        closed = fence(kube, current=current, store=store)
        writes: dict[str, Callable[[], Awaitable[object]]] = {
            "commit": lambda: closed.commit(Put("x", b"1"), given=[]),
            "create": lambda: closed.create({"metadata": {}}),
            "apply": lambda: closed.apply({"metadata": {}}, given=None, force=False),
            "patch": lambda: closed.patch(REF, {}, given=SEEN),
            "delete": lambda: closed.delete(REF, given=SEEN),
        }

        async def story() -> None:
            with pytest.raises(NotOwner, match="shard local/0 at epoch 5"):
                await writes[verb]()

        play(story())
        assert not kube.made
        assert not store.items()

    def test_every_transaction_compares_the_claim(self) -> None:
        async def story() -> None:
            store = StoreModel()
            await store.commit(Put(keys.claim("local", 0), b"{}"))
            epoch = store.items()[keys.claim("local", 0)].create_revision
            mine = Fence(store, Calls(), SHARD, epoch, lambda _shard: epoch)
            await mine.commit(Put("x", b"1"), given=[])

            late = Fence(store, Calls(), SHARD, epoch - 1, lambda _shard: epoch - 1)
            with pytest.raises(Conflict):
                await late.commit(Put("x", b"2"), given=[])
            with pytest.raises(Conflict):
                await mine.commit(Put("x", b"3"), given=[Unchanged("x", 99)])
            assert store.items()["x"].value == b"1"

        play(story())

    @pytest.mark.parametrize("verb", ["create", "apply", "patch", "delete"])
    def test_a_write_that_waits_is_given_up_before_the_lease_can_have_ended(self, verb: str) -> None:
        """P10: its turn may come after ten seconds, and the lease ends after three."""

        async def story() -> None:
            kube = Slow(seconds=10)
            ends = now() + 3.0
            mine = Fence(
                StoreModel(), kube, SHARD, 5, lambda _: 5 if now() < ends else None, remaining=lambda: ends - now()
            )
            writes: dict[str, Callable[[], Awaitable[Any]]] = {
                "create": lambda: mine.create({"metadata": {}}),
                "apply": lambda: mine.apply({"metadata": {}}, given=None, force=False),
                "patch": lambda: mine.patch(REF, {}, given=SEEN),
                "delete": lambda: mine.delete(REF, given=SEEN),
            }
            with pytest.raises(NotOwner):
                await writes[verb]()

            assert now() == pytest.approx(ends, abs=0.05)
            await asyncio.sleep(20)
            assert kube.sent == []

        play(story())

    def test_a_write_that_waits_goes_on_while_the_lease_is_kept_alive(self) -> None:
        async def story() -> None:
            kube = Slow(seconds=10)
            mine = Fence(StoreModel(), kube, SHARD, 5, lambda _: 5, remaining=lambda: 3.0)

            await mine.patch(REF, {}, given=SEEN)

            assert kube.sent == ["patch"]

        play(story())

    def test_a_write_that_was_sent_is_waited_for_while_its_shard_is_given_up(self) -> None:
        """P4: else the claim would go first, and the write would arrive among those of the next owner."""

        async def story() -> None:
            kube = Slow(seconds=10)
            given_up = now() + 1.0
            mine = Fence(
                StoreModel(),
                kube,
                SHARD,
                5,
                lambda _: 5 if now() < given_up else None,
                remaining=lambda: 2.0,
                holds=lambda _: 5,
            )
            await mine.patch(REF, {}, given=SEEN)

            assert kube.sent == ["patch"]
            with pytest.raises(NotOwner):
                await mine.patch(REF, {}, given=SEEN)
            assert kube.sent == ["patch"], "no other is begun"

        play(story())

    def test_a_patch_says_what_it_was_computed_from_and_under_which_epoch(self) -> None:
        kube = Calls()

        play(fence(kube, current=5).patch(REF, {"spec": {"disabled": False}}, given=SEEN, subresource="status"))

        metadata = {"annotations": {"dragonfly.io/epoch": "5"}, "uid": "u-1", "resourceVersion": "7"}
        body = {"metadata": metadata, "spec": {"disabled": False}}
        assert kube.made == [("patch", REF, body, {"subresource": "status"})]

    def test_an_apply_says_what_it_was_compared_with(self) -> None:
        kube = Calls()
        obj = {"metadata": {"name": "m"}, "spec": {}}

        play(fence(kube, current=5).apply(obj, given=SEEN, force=True))
        play(fence(kube, current=5).apply(obj, given=None, force=False))

        told = {"metadata": {"name": "m", "uid": "u-1", "resourceVersion": "7"}, "spec": {}}
        new = {"metadata": {"name": "m", "resourceVersion": "1"}, "spec": {}}
        assert kube.made == [("apply", told, {"force": True}), ("apply", new, {"force": False})]
        assert obj == {"metadata": {"name": "m"}, "spec": {}}

    def test_a_delete_says_what_it_means(self) -> None:
        kube = Calls()

        play(
            fence(kube, current=5).delete(
                REF, given=precondition_of({"metadata": {"uid": "u", "resourceVersion": "8"}})
            )
        )

        assert kube.made == [("delete", REF, {"uid": "u", "resource_version": "8"})]


class TestTogether:
    def test_what_fails_is_told_once_the_other_has_ended(self) -> None:
        """A write that is still on its way when its loop goes on would land in the midst of the next look."""

        async def play_it() -> list[str]:
            said: list[str] = []

            async def fails() -> None:
                raise OSError("changed")

            async def takes_its_time() -> None:
                await asyncio.sleep(1)
                said.append("done")

            with pytest.raises(OSError, match="changed"):
                await together(fails(), takes_its_time())
            return said

        assert play(play_it()) == ["done"]

    def test_that_the_shard_is_another_s_is_told_before_all_else(self) -> None:
        async def fails(error: Exception) -> None:
            raise error

        with pytest.raises(NotOwner):
            play(together(fails(OSError("changed")), fails(NotOwner("shard c/1"))))

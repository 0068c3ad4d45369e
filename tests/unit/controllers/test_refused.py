"""P4: what becomes of a write that the admission policy refuses."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dragonfly.controllers.fence import Fence, Overtaken, precondition_of
from dragonfly.kube.errors import Conflict, Forbidden
from dragonfly.kube.events import Note
from dragonfly.kube.policy import REPLACES
from dragonfly.kube.resources import HARDWARE, Object, Ref
from dragonfly.kube.tinkerbell import EPOCH, MANAGED_BY, MANAGER
from dragonfly.model.provision import Provision
from dragonfly.store import keys
from dragonfly.store.values import Delete, Put
from dragonfly.swarm.shards import ShardId
from tests.unit.controllers.kube_model import KubeModel
from tests.unit.controllers.site import SHARD, Site, run
from tests.unit.store_model import StoreModel
from tests.virtual_time import play

REF = Ref(HARDWARE, "ns", "m")


class Tally:
    """Counts what the fence tells."""

    def __init__(self) -> None:
        self.refusals = self.replacements = 0

    def looked(self, cluster: str, waited: float, worked: float) -> None: ...
    def retried(self, cluster: str) -> None: ...
    def ended(self, provision: Provision) -> None: ...

    def refused(self, cluster: str) -> None:
        assert cluster == SHARD.cluster
        self.refusals += 1

    def replaced(self, cluster: str) -> None:
        assert cluster == SHARD.cluster
        self.replacements += 1


class Story:
    """An object, a claim, and a fence that believes in its epoch whatever its mirror says."""

    def __init__(self) -> None:
        self.kube, self.store, self.tally = KubeModel(), StoreModel(), Tally()
        self.notes: list[Note] = []
        self.kube.refuses_older_epochs = True

    async def claim(self) -> int:
        await self.store.commit(Delete(keys.claim(*SHARD)))
        await self.store.commit(Put(keys.claim(*SHARD), b"{}"))
        return self.store.items()[keys.claim(*SHARD)].create_revision

    def fence(self, epoch: int, shard: ShardId = SHARD) -> Fence:
        return Fence(self.store, self.kube, shard, epoch, lambda _: epoch, gauges=self.tally, note=self.notes.append)

    def written_under(self, epoch: object) -> Object:
        return self.kube.put(REF, **hardware(epoch, "before"))

    @property
    def live(self) -> Object:
        return self.kube.objects[REF]


def hardware(epoch: object, text: str) -> Object:
    metadata = {
        "name": "m",
        "namespace": "ns",
        "labels": {MANAGED_BY: MANAGER},
        "annotations": {EPOCH: str(epoch)},
    }
    return {
        "apiVersion": HARDWARE.api_version,
        "kind": HARDWARE.kind,
        "metadata": metadata,
        "spec": {"userData": text},
    }


async def _apply(fence: Fence, live: Object) -> Object:
    return await fence.apply(hardware(fence.epoch, "after"), given=precondition_of(live), force=True)


async def _patch(fence: Fence, live: Object) -> Object:
    return await fence.patch(REF, {"spec": {"userData": "after"}}, given=precondition_of(live))


WRITES = pytest.mark.parametrize("write", [_apply, _patch])
WriteOf = Callable[[Fence, Object], Awaitable[Object]]


@WRITES
def test_a_replica_that_was_overtaken_is_refused_though_what_it_saw_is_current(write: WriteOf) -> None:
    async def story(at: Story) -> None:
        late = await at.claim()
        live = at.written_under(await at.claim())

        with pytest.raises(Overtaken, match=f"epoch {late}"):
            await write(at.fence(late), live)

        assert at.live["spec"] == {"userData": "before"}
        assert (at.tally.refusals, at.tally.replacements, at.notes) == (1, 0, [])

    _told(story)


@WRITES
def test_without_any_claim_in_etcd_it_is_refused_too(write: WriteOf) -> None:
    async def story(at: Story) -> None:
        late = await at.claim()
        live = at.written_under(late + 5)
        await at.store.commit(Delete(keys.claim(*SHARD)))

        with pytest.raises(Overtaken):
            await write(at.fence(late), live)

        assert at.live["spec"] == {"userData": "before"}

    _told(story)


@WRITES
def test_an_owner_goes_on_where_etcd_has_begun_anew(write: WriteOf) -> None:
    """Epochs of before a backup was restored are higher than those of now; nobody who has them can hold a claim."""

    async def story(at: Story) -> None:
        live = at.written_under(1_000_000)
        epoch = await at.claim()

        await write(at.fence(epoch), live)

        assert at.live["spec"] == {"userData": "after"}
        assert at.live["metadata"]["annotations"] == {EPOCH: str(epoch), REPLACES: "1000000"}
        assert (at.tally.refusals, at.tally.replacements) == (1, 1)
        assert [(note.subject.name, note.type, note.reason) for note in at.notes] == [("m", "Warning", "EpochReplaced")]
        await write(at.fence(await at.claim()), at.live)
        assert at.tally.refusals == 1, "from then on the epochs are those of now"

    _told(story)


@WRITES
def test_etcd_has_the_last_word(write: WriteOf) -> None:
    """Another replica claims the shard just after the object was read: the claim is asked after that, not before."""

    async def story(at: Story) -> None:
        live = at.written_under(1_000_000)
        epoch = await at.claim()
        gate = at.kube.get

        async def get(ref: Ref) -> Object:
            found = await gate(ref)
            await at.claim()
            return found

        at.kube.get = get  # type: ignore[method-assign] # stands in for it here

        with pytest.raises(Overtaken):
            await write(at.fence(epoch), live)

        assert at.live["spec"] == {"userData": "before"}

    _told(story)


@WRITES
def test_what_was_written_meanwhile_is_not_replaced(write: WriteOf) -> None:
    """Between the refusal and the second try somebody else writes: the precondition is still that of the first."""

    async def story(at: Story) -> None:
        live = at.written_under(1_000_000)
        epoch = await at.claim()
        gate = at.kube.get

        async def get(ref: Ref) -> Object:
            found = await gate(ref)
            at.kube.put(REF, spec={"userData": "theirs"})
            return found

        at.kube.get = get  # type: ignore[method-assign] # stands in for it here

        with pytest.raises(Conflict):
            await write(at.fence(epoch), live)

        assert at.live["spec"] == {"userData": "theirs"}
        assert at.tally.replacements == 0

    _told(story)


@WRITES
def test_an_object_whose_epoch_was_set_right_meanwhile_is_looked_at_again(write: WriteOf) -> None:
    async def story(at: Story) -> None:
        live = at.written_under(1_000_000)
        epoch = await at.claim()
        gate = at.kube.get

        async def get(ref: Ref) -> Object:
            at.kube.put(REF, metadata={"annotations": {EPOCH: "x"}})
            return await gate(ref)

        at.kube.get = get  # type: ignore[method-assign] # stands in for it here

        with pytest.raises(Conflict):
            await write(at.fence(epoch), live)

    _told(story)


@WRITES
def test_another_policy_s_refusal_is_no_word_on_who_owns_what(write: WriteOf) -> None:
    async def story(at: Story) -> None:
        epoch = await at.claim()
        live = at.written_under(epoch)
        other = Forbidden("ValidatingAdmissionPolicy 'no-fridays' with binding 'x' denied request: no", status=403)
        at.kube.faults["apply"].append(other)
        at.kube.faults["patch"].append(other)

        with pytest.raises(Forbidden, match="no-fridays"):
            await write(at.fence(epoch), live)

        assert at.tally.refusals == 0

    _told(story)


def test_a_controller_that_was_overtaken_unseen_stops_and_asks_no_more() -> None:
    """Its mirror shows nothing of the next owner for an hour, and its lease seems fine."""

    async def story(site: Site) -> None:
        site.kube.refuses_older_epochs = True
        await site.add_machine()
        async with site.running():
            await site.settled(60)
            site.watch.hold()
            await site.store.commit(Delete(keys.claim(*SHARD)))
            await site.store.commit(Put(keys.claim(*SHARD), b'{"owner":"b"}'))
            later = site.store.items()[keys.claim(*SHARD)].create_revision
            hardware = Ref(HARDWARE, "tinkerbell", "m-1")
            site.kube.put(
                hardware, metadata={"annotations": {EPOCH: str(later)}}, spec={"agentID": "changed by the next owner"}
            )
            asked = counted(site)
            await site.settled(3_600)

            assert site.kube.objects[hardware]["spec"]["agentID"] == "changed by the next owner"
            assert asked == ["apply"]

    run(story)


def counted(site: Site) -> list[str]:
    """Each write that the site's API server is asked for from now on."""
    asked: list[str] = []
    enter = site.kube._enter

    async def noted(verb: str) -> None:
        if verb in {"apply", "patch", "create", "delete"}:
            asked.append(verb)
        await enter(verb)

    site.kube._enter = noted  # type: ignore[method-assign] # stands in for it here
    return asked


def _told(story: Callable[[Story], Awaitable[Any]]) -> None:
    async def played() -> None:
        await story(Story())

    play(played())

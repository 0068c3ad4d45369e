"""Who keeps the admission policy, how often, and what is told of it; in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dragonfly.controllers.guard import Guard, last_editor, pause_after, trouble, verdict
from dragonfly.kube.errors import Forbidden, Invalid, KubeError, NotFound, Throttled, Unreachable
from dragonfly.kube.policy import binding, binding_ref, policy, policy_ref
from dragonfly.kube.port import MAY_SEND
from dragonfly.kube.resources import Object, Ref
from tests.unit.controllers.kube_model import KubeModel
from tests.virtual_time import now, play

NS = "tinkerbell"
LOOK = 301.0
"""Seconds within which what was changed is set back."""

NO_RIGHT = Forbidden(
    'validatingadmissionpolicies.admissionregistration.k8s.io "x" is forbidden: User "u" cannot get resource '
    '"validatingadmissionpolicies" in API group "admissionregistration.k8s.io" at the cluster scope',
    status=403,
)


class Connected(KubeModel):
    """Asks whether a write may be sent when its turn has come, as a connection does."""

    async def _enter(self, verb: str) -> None:
        await super()._enter(verb)
        if verb != "get":
            MAY_SEND.get()()


class Cluster:
    """A guard that keeps the policy of a model."""

    def __init__(self) -> None:
        self.kube = Connected()
        self.mine = True
        self.told = 0
        self.guard = Guard(
            self.kube, NS, mine=lambda: self.mine, clock=now, now=lambda: moment(now()), changed=self._changed
        )

    def _changed(self) -> None:
        self.told += 1

    def specs(self) -> list[Object | None]:
        found = [self.kube.objects.get(ref) for ref in (policy_ref(NS), binding_ref(NS))]
        return [obj["spec"] if obj else None for obj in found]

    @property
    def reason(self) -> str:
        return self.guard.state.reason if self.guard.state else ""


WANTED = [policy(NS)["spec"], binding(NS)["spec"]]


def moment(seconds: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def run(story: Callable[[Cluster], Awaitable[None]]) -> None:
    async def played() -> None:
        cluster = Cluster()
        task = asyncio.create_task(cluster.guard.run())
        try:
            await story(cluster)
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()

    play(played())


def test_it_is_installed_at_once_and_then_left_alone() -> None:
    async def story(cluster: Cluster) -> None:
        await asyncio.sleep(3)
        assert cluster.specs() == WANTED
        assert cluster.kube.writes() == [
            ("apply", "ValidatingAdmissionPolicy"),
            ("apply", "ValidatingAdmissionPolicyBinding"),
        ]
        await asyncio.sleep(10_000)
        assert len(cluster.kube.calls) == 2
        assert cluster.guard.state is not None
        assert (cluster.guard.state.installed, cluster.reason) == (True, "Installed")
        assert cluster.guard.state.since < moment(3)
        assert cluster.told == 1

    run(story)


def test_only_the_owner_of_the_first_shard_keeps_it() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.mine = False
        await asyncio.sleep(1_000)
        assert not cluster.kube.objects
        assert cluster.guard.state is None

        cluster.mine = True
        await asyncio.sleep(2)
        assert cluster.specs() == WANTED

        cluster.mine = False
        await asyncio.sleep(2)
        assert cluster.guard.state is None
        cluster.kube.remove(policy_ref(NS))
        await asyncio.sleep(1_000)
        assert cluster.specs() == [None, WANTED[1]]

    run(story)


@pytest.mark.parametrize("index", [0, 1])
def test_what_is_deleted_is_back_and_that_is_told(index: int) -> None:
    async def story(cluster: Cluster) -> None:
        await asyncio.sleep(3)
        cluster.kube.remove((policy_ref(NS), binding_ref(NS))[index])
        await asyncio.sleep(LOOK)
        assert cluster.specs() == WANTED
        assert cluster.reason == "Restored"
        await asyncio.sleep(LOOK)
        assert cluster.reason == "Installed"

    run(story)


def test_what_is_changed_is_set_back_and_who_did_it_is_told() -> None:
    async def story(cluster: Cluster) -> None:
        await asyncio.sleep(3)
        editor = [{"manager": "kubectl-edit", "time": "2026-01-01T00:00:00Z"}]
        never = [{"name": "never", "expression": "false"}]
        cluster.kube.put(policy_ref(NS), metadata={"managedFields": editor}, spec={"matchConditions": never})
        cluster.kube.put(binding_ref(NS), spec={"validationActions": ["Warn"]})
        await asyncio.sleep(LOOK)
        assert cluster.specs() == WANTED
        assert cluster.guard.state is not None
        assert cluster.guard.state.installed
        assert "by kubectl-edit" in cluster.guard.state.message

    run(story)


def test_it_does_not_fight() -> None:
    """Somebody deletes the policy every minute."""

    async def story(cluster: Cluster) -> None:
        await asyncio.sleep(3)
        begun = len(cluster.kube.calls)
        for _ in range(24 * 60):
            await asyncio.sleep(60)
            if policy_ref(NS) in cluster.kube.objects:
                cluster.kube.remove(policy_ref(NS))
        assert len(cluster.kube.calls) - begun < 32
        assert cluster.guard.state is not None
        assert (cluster.guard.state.installed, cluster.reason) == (False, "Contested")
        await asyncio.sleep(2 * 3_700)
        assert cluster.reason == "Installed"
        assert cluster.specs() == WANTED

    run(story)


def test_what_the_api_server_fills_in_is_no_edit() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.kube.put(policy_ref(NS), spec=WANTED[0] | {"newField": "of a newer server"})
        fills_in(cluster.kube)
        await asyncio.sleep(10 * LOOK)
        assert cluster.reason == "Installed"
        assert cluster.told == 1
        assert cluster.kube.writes().count(("patch", "ValidatingAdmissionPolicy")) == 1

    run(story)


def fills_in(kube: KubeModel) -> None:
    """Make the server put a field into what is patched, as newer ones do with defaults."""
    patch = kube.patch

    async def filled(ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        await patch(ref, body, subresource=subresource)
        return kube.put(ref, spec={"newField": "of a newer server"})

    kube.patch = filled  # type: ignore[method-assign] # stands in for it here


def test_without_the_right_it_says_so_and_takes_the_right_when_it_comes() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.kube.faults["get"] += [NO_RIGHT] * 3
        await asyncio.sleep(3)
        assert cluster.guard.state is not None
        assert (cluster.guard.state.installed, cluster.reason) == (False, "Forbidden")
        assert "get validatingadmissionpolicies.admissionregistration.k8s.io" in cluster.guard.state.message
        assert "rbac-fence.yaml" in cluster.guard.state.message
        await asyncio.sleep(2 * LOOK)
        assert cluster.told == 1
        await asyncio.sleep(LOOK)
        assert cluster.reason == "Installed"

    run(story)


def test_an_api_server_that_does_not_answer_changes_nothing_that_was_known() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.kube.faults["get"] += [Unreachable("away", maybe_done=False)] * 3
        await asyncio.sleep(10)
        assert cluster.guard.state is None
        await asyncio.sleep(60)
        assert cluster.reason == "Installed"
        cluster.kube.faults["get"] += [Throttled("busy", retry_after=1.0)]
        await asyncio.sleep(LOOK)
        assert cluster.reason == "Installed"
        assert cluster.told == 1

    run(story)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NO_RIGHT, "Forbidden"),
        (NotFound("the server could not find the requested resource", status=404), "Unsupported"),
        (Invalid("undeclared reference", status=422), "Refused"),
    ],
)
def test_what_errors_say_of_the_policy(error: KubeError, reason: str) -> None:
    found = trouble(error)

    assert found is not None
    assert (found.installed, found.reason) == (False, reason)


def test_expired_credentials_say_nothing_of_the_policy() -> None:
    assert trouble(Forbidden("Unauthorized", status=401)) is None


def test_nothing_is_written_once_it_is_another_s_task() -> None:
    """The shard goes while the API server takes its time over the first question."""

    async def story(cluster: Cluster) -> None:
        answer = cluster.kube.gate("get")
        await asyncio.sleep(3)
        cluster.mine = False
        answer.set()
        await asyncio.sleep(1_000)
        assert not cluster.kube.objects
        assert cluster.guard.state is None

    run(story)


@pytest.mark.parametrize("verb", ["apply", "patch"])
def test_a_write_that_waits_for_its_turn_is_not_sent_once_it_is_another_s_task(verb: str) -> None:
    """P10: the API server is busy, and the lease ends before there is room."""

    async def story(cluster: Cluster) -> None:
        if verb == "patch":
            await cluster.kube.apply({**policy(NS), "spec": {}}, force=True)
        before = dict(cluster.kube.objects)
        turn = cluster.kube.gate(verb)
        await asyncio.sleep(3)
        assert cluster.kube.waiting == {verb}
        cluster.mine = False
        turn.set()
        await asyncio.sleep(1_000)
        assert cluster.kube.objects == before
        assert cluster.guard.state is None

    run(story)


def test_what_was_made_meanwhile_is_not_overwritten() -> None:
    """P4: the apply is on its way when another replica, of a newer version, has made the policy."""
    newer = {"newField": "of a newer version"}

    async def story(cluster: Cluster) -> None:
        turn = cluster.kube.gate("apply")
        await asyncio.sleep(3)
        assert cluster.kube.waiting == {"apply"}
        cluster.kube.put(policy_ref(NS), metadata={"name": policy_ref(NS).name}, spec=newer)
        turn.set()
        await asyncio.sleep(3)
        assert cluster.specs()[0] == newer
        assert cluster.kube.writes() == []

    run(story)


@pytest.mark.parametrize("verb", ["get", "apply"])
def test_who_gives_the_first_shard_up_waits_for_what_is_under_way(verb: str) -> None:
    """P4: a claim that was deleted under a write would have that arrive after the next owner's first."""

    async def story(cluster: Cluster) -> None:
        answer = cluster.kube.gate(verb)
        await asyncio.sleep(3)
        assert cluster.kube.waiting == {verb}
        quiet = asyncio.create_task(cluster.guard.quiesce())
        await asyncio.sleep(60)
        assert not quiet.done()

        cluster.mine = False
        answer.set()
        await asyncio.wait_for(quiet, 3)
        calls = len(cluster.kube.calls)
        await asyncio.sleep(1_000)
        assert len(cluster.kube.calls) == calls

    run(story)


def test_a_guard_that_does_nothing_is_quiet_at_once() -> None:
    async def story(cluster: Cluster) -> None:
        await asyncio.sleep(10)
        before = now()
        await cluster.guard.quiesce()
        assert now() == before

    run(story)


def test_an_old_api_server_knows_neither_the_object_nor_the_type() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.kube.faults["apply"] += [NotFound("the server could not find the requested resource", status=404)]
        await asyncio.sleep(3)
        assert cluster.reason == "Unsupported"

    run(story)


def test_pauses_grow_to_an_hour() -> None:
    assert [pause_after(repairs) for repairs in (0, 1, 2, 3, 50)] == [300, 300, 600, 1200, 3600]


def test_from_the_second_time_it_counts_as_contested() -> None:
    assert [verdict(repairs, "argocd").reason for repairs in range(4)] == [
        "Installed",
        "Restored",
        "Contested",
        "Contested",
    ]


def test_the_last_editor_is_the_newest_that_is_not_dragonfly() -> None:
    def entry(manager: str, time: str) -> Object:
        return {"manager": manager, "time": time}

    entries = [entry("b", "2026-01-02"), entry("a", "2026-01-01"), entry("dragonfly", "2026-01-03")]
    assert last_editor({"metadata": {"managedFields": entries}}) == "b"
    assert last_editor({"metadata": {}}) == ""

"""What a cluster is asked for is what the shipped roles grant, and what is missing is named as RBAC names it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from dragonfly.controllers.checkup import NEEDED, NEEDED_PARTS, OPTIONAL, Examiner, Turns, examine
from dragonfly.kube.errors import Forbidden, KubeError, NotFound, Unreachable
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import (
    ADMISSION_POLICY,
    DEPLOYMENT,
    HARDWARE,
    NAMESPACE,
    SECRET,
    WORKFLOW,
    Object,
    Ref,
    Resource,
)
from dragonfly.model.cluster import WITHOUT, MissingRight
from tests.rights import FENCE, ROLE, Right, rights
from tests.virtual_time import now, play


class Cluster:
    """As much of an API server as is asked."""

    def __init__(
        self,
        *,
        lacks: Mapping[Resource, KubeError] = {},
        denied: frozenset[tuple[str, Resource]] = frozenset(),
        denied_parts: frozenset[str] = frozenset(),
        images: tuple[str, ...] = (),
    ) -> None:
        self.lacks = dict(lacks)
        self._denied = denied
        self._denied_parts = denied_parts
        self.images = images

    async def version(self) -> str:
        return "v1.36.3"

    async def get(self, ref: Ref) -> Object:
        if ref.resource == DEPLOYMENT and self.images:
            return {"spec": {"template": {"spec": {"containers": [{"image": image} for image in self.images]}}}}
        raise self.lacks.get(ref.resource, NotFound("no such object", status=404, reason="NotFound"))

    async def can(
        self, verb: str, resource: Resource, namespace: str, *, name: str = "", subresource: str = ""
    ) -> bool:
        assert namespace == ("tinkerbell" if resource.namespaced or resource == NAMESPACE else "")
        if resource.group == "admissionregistration.k8s.io":
            assert name == "dragonfly-epoch.tinkerbell"
        return (
            verb,
            resource,
        ) not in self._denied and f"{verb} {resource.plural}/{subresource}" not in self._denied_parts


def examiner_of(
    cluster: Cluster,
    *,
    mine: Callable[[], bool] = lambda: True,
    turns: Turns | None = None,
    changed: Callable[[], None] = lambda: None,
) -> Examiner:
    kube = cast("Kube", cluster)
    return Examiner(kube, "tinkerbell", mine=mine, clock=now, turns=turns or Turns(now), changed=changed)


async def look(cluster: Any) -> Any:
    return await examine(cluster, "tinkerbell")


def test_everything_that_is_asked_for_is_granted_by_the_shipped_role() -> None:
    granted = set(rights(ROLE))

    needed = {Right(resource.group, resource.plural, verb) for resource, verbs in NEEDED for verb in verbs}
    needed |= {Right(resource.group, f"{resource.plural}/{part}", verb) for resource, part, verb in NEEDED_PARTS}
    optional = {Right(resource.group, resource.plural, verb) for resource, verbs in OPTIONAL for verb in verbs}
    assert needed | optional == granted | set(rights(FENCE))
    assert not needed & optional
    assert not needed - granted


def test_what_comes_of_each_optional_right_is_told() -> None:
    assert {right.named().partition(" ")[2] for right in rights(FENCE)} | {"deployments.apps"} == set(WITHOUT)


async def test_optional_rights_are_named_by_themselves() -> None:
    denied = frozenset({("get", DEPLOYMENT), ("patch", ADMISSION_POLICY)})

    found = await look(Cluster(denied=denied))

    assert found.missing_rights == ()
    assert found.missing_optional == (
        MissingRight(verb="get", resource="deployments.apps"),
        MissingRight(verb="patch", resource="validatingadmissionpolicies.admissionregistration.k8s.io"),
    )


async def test_nothing_is_missing() -> None:
    found = await look(Cluster(denied=frozenset()))

    assert (found.error, found.version, found.missing_types, found.missing_rights) == ("", "v1.36.3", (), ())


async def test_types_and_rights_are_named() -> None:
    lacks: dict[Resource, KubeError] = {
        WORKFLOW: NotFound("404 page not found", status=404),
        SECRET: Forbidden("may not", status=403),
    }
    found = await look(Cluster(lacks=lacks, denied=frozenset({("patch", HARDWARE), ("get", SECRET)})))

    assert found.missing_types == ("workflows.tinkerbell.org",)
    assert set(found.missing_rights) == {
        MissingRight(verb="patch", resource="hardware.tinkerbell.org"),
        MissingRight(verb="get", resource="secrets"),
    }


async def test_the_right_to_a_part_is_asked_for_as_well() -> None:
    """Without it no Workflow could be taken from its agent."""
    found = await look(Cluster(denied_parts=frozenset({"patch workflows/status"})))

    assert found.missing_rights == (MissingRight(verb="patch", resource="workflows.tinkerbell.org/status"),)


@pytest.mark.parametrize(
    ("images", "version"),
    [
        ((), ""),
        (("ghcr.io/tinkerbell/tinkerbell:v0.25.0",), "v0.25.0"),
        (("docker.io/library/nginx:1.29", "registry:5000/tinkerbell/tinkerbell:v0.25.1@sha256:abc"), "v0.25.1"),
        (("registry:5000/tinkerbell",), ""),
    ],
)
async def test_tinkerbells_version_is_what_its_image_says(images: tuple[str, ...], version: str) -> None:
    found = await look(Cluster(images=images))

    assert (found.tinkerbell, found.namespace) == (version, "tinkerbell")


@pytest.mark.parametrize(
    "error", [Unreachable("no answer within 10 s", maybe_done=False), Forbidden("Unauthorized", status=401)]
)
async def test_who_cannot_ask_says_why(error: KubeError) -> None:
    found = await look(Cluster(lacks={HARDWARE: error}, denied=frozenset()))

    assert found.error == error.message


def test_it_is_examined_by_whose_task_it_is_now_and_then() -> None:
    async def story() -> None:
        cluster = Cluster()
        tasks, told = [False], []
        examiner = examiner_of(cluster, mine=lambda: tasks[0], changed=lambda: told.append(now()))
        running = asyncio.create_task(examiner.run())
        await asyncio.sleep(100)
        assert not told

        tasks[0] = True
        await asyncio.sleep(5)
        assert examiner.found is not None
        assert examiner.found.tinkerbell == ""
        cluster.images = ("tinkerbell:v0.25.0",)
        await asyncio.sleep(700)
        assert examiner.found.tinkerbell == "v0.25.0"
        cluster.lacks[HARDWARE] = Unreachable("no answer", maybe_done=False)
        await asyncio.sleep(700)
        assert examiner.found.tinkerbell == "v0.25.0", "what is not answered tells nothing"
        assert len(told) == 2

        tasks[0] = False
        await asyncio.sleep(5)
        assert told[2:], "it is another replica's task"
        running.cancel()

    play(story())


def test_clusters_that_are_taken_over_together_are_examined_one_after_the_other_but_wait_for_nobodys_answers() -> None:
    class Silent(Cluster):
        async def version(self) -> str:
            asked.append(now())
            await asyncio.sleep(3600)
            return "v1.36.0"

    asked: list[float] = []

    async def story() -> None:
        turns = Turns(now, every=0.5)
        running = [asyncio.create_task(examiner_of(Silent(), turns=turns).run()) for _ in range(4)]
        await asyncio.sleep(10)
        for task in running:
            task.cancel()

    play(story())

    assert asked == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_what_was_given_up_while_it_waited_for_its_turn_is_not_examined() -> None:
    cluster, tasks = Cluster(), [True]

    async def story() -> None:
        turns = Turns(now, every=0.5)
        await turns.wait()
        examiner = examiner_of(cluster, mine=lambda: tasks[0], turns=turns)
        running = asyncio.create_task(examiner.run())
        await asyncio.sleep(0.25)
        tasks[0] = False
        await asyncio.sleep(1)
        assert examiner.found is None
        running.cancel()

    play(story())

"""Replicas that came together while hosts were away are spread again once those are back, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly.install.cluster import Cluster
from dragonfly.install.execution import StepFailed
from dragonfly.install.hands import RealHands
from dragonfly.install.host import Host
from dragonfly.install.spread import Spread, spread_of
from dragonfly.install.steps import SpreadReplicas
from dragonfly.kube.resources import Object

IMAGE = "registry.example.com/dragonfly:0.1.0"
DEPLOYMENT: Object = {"spec": {"replicas": 3, "template": {"spec": {"containers": [{"image": IMAGE}]}}}}
SPREAD = SpreadReplicas("dragonfly", "dragonfly")


def node(name: str, *, ready: bool = True, images: tuple[str, ...] = (IMAGE,), **spec: Any) -> Object:
    status = {
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "images": [{"names": list(images)}],
    }
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def pod(name: str, host: str, *, ready: bool = True, phase: str = "Running", **metadata: Any) -> Object:
    status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    return {"metadata": {"name": name, **metadata}, "spec": {"nodeName": host}, "status": status}


ON_ONE = [pod(name, "host-1") for name in "abc"]
THREE = [node(name) for name in ("host-1", "host-2", "host-3")]


def test_of_replicas_on_one_host_one_is_too_many_and_on_three_none_is() -> None:
    assert spread_of(DEPLOYMENT, ON_ONE, THREE) == Spread("", {"host-1": 3, "host-2": 0, "host-3": 0}, "a")
    two = [pod("a", "host-1"), pod("b", "host-2"), pod("c", "host-2")]
    assert spread_of(DEPLOYMENT, two, THREE).surplus == "b"
    assert not spread_of(DEPLOYMENT, two, THREE[:2]).surplus, "two hosts cannot have three more evenly"
    assert not spread_of(DEPLOYMENT, [*two[:2], pod("c", "host-3")], THREE).surplus
    assert not spread_of(DEPLOYMENT, ON_ONE, THREE[:1]).surplus


@pytest.mark.parametrize(
    "other",
    [
        node("host-2", ready=False),
        node("host-2", unschedulable=True),
        node("host-2", taints=[{"key": "backup", "effect": "NoSchedule"}]),
        node("host-2", images=("registry.example.com/dragonfly:0.0.9",)),
    ],
)
def test_none_is_sent_away_for_a_host_that_cannot_have_it(other: Object) -> None:
    assert not spread_of(DEPLOYMENT, ON_ONE, [THREE[0], other]).surplus


def test_none_is_sent_away_where_it_might_come_to_a_host_without_the_image() -> None:
    hosts = [*THREE[:2], node("host-3", images=())]

    assert not spread_of(DEPLOYMENT, ON_ONE, hosts).surplus


@pytest.mark.parametrize(
    ("pods", "problem"),
    [
        ([*ON_ONE[:2], pod("c", "host-1", ready=False)], "2 of 3 replicas are ready"),
        ([*ON_ONE[:2], pod("c", "host-1", deletionTimestamp="2026-01-01T00:00:00Z")], "2 of 3 replicas are ready"),
        ([*ON_ONE, pod("d", "host-2")], "a former replica still runs"),
    ],
)
def test_while_not_all_are_ready_none_is_sent_away(pods: list[Object], problem: str) -> None:
    assert spread_of(DEPLOYMENT, pods, THREE) == Spread(problem)


def test_what_has_ended_and_is_still_listed_does_not_count() -> None:
    assert spread_of(DEPLOYMENT, [*ON_ONE, pod("d", "host-2", phase="Failed")], THREE).surplus == "a"


class Placing(Cluster):
    """Three hosts; whoever goes is replaced where a scheduler says, at once or after some looks."""

    def __init__(self, schedule: Callable[[dict[str, str]], str]) -> None:
        super().__init__(Path(__file__))
        self.pods_on = dict.fromkeys("abc", "host-1")
        self.schedule = schedule
        self.refusals: list[str] = []
        self.gone: list[str] = []
        self.unready = 0

    def spread(self, namespace: str, name: str) -> Spread:
        assert (namespace, name) == ("dragonfly", "dragonfly")
        is_ready = not self.unready
        self.unready = max(0, self.unready - 1)
        pods = [pod(name, host, ready=is_ready) for name, host in self.pods_on.items()]
        return spread_of(DEPLOYMENT, pods, THREE)

    def evict(self, namespace: str, name: str) -> str:
        if self.refusals:
            return self.refusals.pop()
        assert not self.unready, "the one before is not back yet"
        del self.pods_on[name]
        self.gone.append(name)
        self.pods_on[f"{name}'"] = self.schedule(self.pods_on)
        self.unready = 2
        return ""


def emptiest(pods: dict[str, str]) -> str:
    hosts = [one["metadata"]["name"] for one in THREE]
    return str(min(hosts, key=lambda host: list(pods.values()).count(host)))


@pytest.fixture
def hands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealHands:
    monkeypatch.setattr("time.sleep", lambda _: None)
    host = Host(tmp_path)
    monkeypatch.setattr(host, "is_active", lambda unit: True)
    return RealHands(host, tmp_path / "saved")


def carried_out(hands: RealHands, cluster: Placing, action: SpreadReplicas = SPREAD) -> list[str]:
    hands._cluster = cluster
    said: list[str] = []
    assert not hands.is_done(action, "")
    hands.carry_out(action, said.append)
    return said


def test_the_surplus_starts_again_one_after_the_other_and_that_is_said(hands: RealHands) -> None:
    cluster = Placing(emptiest)
    cluster.refusals = ["Cannot evict pod as it would violate the pod's disruption budget."]

    said = carried_out(hands, cluster)

    assert sorted(cluster.pods_on.values()) == ["host-1", "host-2", "host-3"]
    assert cluster.gone == ["a", "b"], "no more than had to"
    assert said[0] == "replicas are on host-1 3, host-2 0, host-3 0; a starts again elsewhere"
    assert "replicas are on host-1 2, host-2 1, host-3 0; b starts again elsewhere" in said
    assert hands.is_done(SPREAD, "")


def test_where_kubernetes_puts_one_back_the_others_are_left_alone(hands: RealHands) -> None:
    cluster = Placing(lambda _: "host-1")

    said = carried_out(hands, cluster)

    assert cluster.gone == ["a"]
    assert said[-1] == "left so, for Kubernetes puts them there again: host-1 3, host-2 0, host-3 0"


def test_a_budget_that_lets_none_go_is_no_failure(hands: RealHands) -> None:
    cluster = Placing(emptiest)
    cluster.refusals = ["Cannot evict pod as it would violate the pod's disruption budget."] * 9

    said = carried_out(hands, cluster, SpreadReplicas("dragonfly", "dragonfly", seconds=-1))

    assert not cluster.gone
    assert said[-1].startswith("left so, for a may not go: not within -1 s: Cannot evict pod")


def test_one_that_does_not_come_back_ends_the_step(hands: RealHands) -> None:
    cluster = Placing(emptiest)

    with pytest.raises(StepFailed, match="not within -1 s: 0 of 3 replicas are ready"):
        carried_out(hands, cluster, SpreadReplicas("dragonfly", "dragonfly", seconds=-1))

    assert cluster.gone == ["a"]

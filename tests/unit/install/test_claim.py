"""An address that moves is nobody's, or this cluster's own."""

from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from dragonfly.install.claim import claim
from dragonfly.install.execution import StepFailed
from dragonfly.install.hands import RealHands
from dragonfly.install.host import Host
from dragonfly.install.neighbours import Neighbours
from dragonfly.install.steps import ClaimAddresses

FLOATING, NEW, FOREIGN = "10.0.0.50", "10.0.0.51", "10.0.0.60"


class Wire(Neighbours):
    def __init__(self, *held: str) -> None:
        self._held = held

    def holders(self, interface: str, addresses: Iterable[str]) -> tuple[str, ...]:
        assert interface == "eth0"
        return tuple(address for address in addresses if address in self._held)


class Balancers:
    def __init__(self, *own: str, is_known: bool = True, silent: str = "") -> None:
        self._own = own
        self._silent = silent
        self.is_known = is_known

    def balanced(self) -> Collection[str]:
        assert self.is_known
        if self._silent:
            raise StepFailed(self._silent)
        return self._own


@pytest.mark.parametrize(
    ("held", "balancers"),
    [
        ((), Balancers(is_known=False)),
        ((), Balancers(silent="it does not answer")),
        ((FLOATING,), Balancers(FLOATING)),
    ],
    ids=["before there is a cluster", "while nobody has them", "at another server of the cluster"],
)
def test_what_nobody_has_but_the_clusters_load_balancer_is_had(held: tuple[str, ...], balancers: Balancers) -> None:
    assert claim(Wire(*held), balancers, "eth0", (FLOATING, NEW)) == f"{FLOATING},{NEW}"


@pytest.mark.parametrize("balancers", [Balancers(is_known=False), Balancers(FLOATING)])
def test_what_somebody_else_has_is_refused(balancers: Balancers) -> None:
    with pytest.raises(StepFailed, match=f"^{FOREIGN} is somebody's$") as failed:
        claim(Wire(FOREIGN), balancers, "eth0", (FLOATING, FOREIGN))

    assert failed.value.remedy == "Take addresses that are nobody's."


def test_while_the_cluster_does_not_answer_what_somebody_has_is_not_taken_for_its_own() -> None:
    with pytest.raises(StepFailed, match=f"somebody has {FLOATING}, .* cannot be told: it does not answer") as failed:
        claim(Wire(FLOATING), Balancers(silent="it does not answer"), "eth0", (FLOATING,))

    assert "k3s" in failed.value.remedy


def test_an_installation_asks_the_wire_and_not_again_for_what_it_has(tmp_path: Path) -> None:
    hands = RealHands(Host(tmp_path), tmp_path / "saved", neighbours=Wire(FOREIGN))
    free, taken = (ClaimAddresses("eth0", (address,)) for address in (FLOATING, FOREIGN))

    with pytest.raises(StepFailed, match="is somebody's"):
        hands.carry_out(taken, print)
    proof = hands.carry_out(free, print)

    assert hands.is_done(free, proof)
    assert not hands.is_done(taken, proof)

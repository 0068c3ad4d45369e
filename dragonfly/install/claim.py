"""Addresses that move between hosts: nobody else on the wire may have them. The load balancer of this cluster may."""

from collections.abc import Collection, Iterable
from typing import Protocol

from dragonfly.install.execution import StepFailed


class Wire(Protocol):
    """`Neighbours`, as far as it takes."""

    def holders(self, interface: str, addresses: Iterable[str]) -> tuple[str, ...]: ...


class Balancers(Protocol):
    """`Cluster`, as far as it takes."""

    @property
    def is_known(self) -> bool: ...
    def balanced(self) -> Collection[str]: ...


def claim(wire: Wire, balancers: Balancers, interface: str, addresses: tuple[str, ...]) -> str:
    """Return the addresses as one text, by which they are known again.

    Raises:
        StepFailed: somebody else has one, or who has it cannot be told.
        OSError: the wire cannot be asked.
    """
    held = wire.holders(interface, addresses)
    own = _own(balancers, held) if held and balancers.is_known else ()
    if others := [address for address in held if address not in own]:
        raise StepFailed(f"{', '.join(others)} is somebody's", "Take addresses that are nobody's.")
    return ",".join(addresses)


def _own(balancers: Balancers, held: tuple[str, ...]) -> Collection[str]:
    try:
        return balancers.balanced()
    except StepFailed as error:
        raise StepFailed(
            f"somebody has {', '.join(held)}, and whether that is this cluster's load balancer cannot be told: {error}",
            "Have k3s run on a server of the cluster, and try again.",
        ) from error

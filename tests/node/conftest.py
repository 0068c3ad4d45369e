"""Each module has a node of its own, with Dragonfly in it."""

from collections.abc import Iterator

import pytest

from dragonfly.sandbox.ports import PortLease
from tests.node.deployed import Deployed
from tests.node.node import Node


@pytest.fixture(scope="module")
def ports() -> Iterator[PortLease]:
    with PortLease() as lease:
        yield lease


@pytest.fixture(scope="module")
def node(ports: PortLease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A Kubernetes with nothing in it."""
    with Node(tmp_path_factory.mktemp("node"), ports).running() as node:
        yield node


@pytest.fixture(scope="module")
def deployed(node: Node, ports: PortLease) -> Iterator[Deployed]:
    """The overlay `shared`, ready."""
    with Deployed(node, ports).running() as deployed:
        yield deployed

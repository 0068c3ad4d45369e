"""Sites for the end-to-end tests. Each pytest-xdist worker has one control plane, and one swarm at a time on it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.ports import PortLease
from tests.e2e.site import Site

StartSite = Callable[..., AbstractContextManager[Site]]
"""Called with how many replicas, and with what all of them are told otherwise than usual."""


@pytest.fixture(scope="session")
def ports() -> Iterator[PortLease]:
    with PortLease() as lease:
        yield lease


@pytest.fixture(scope="session")
def start_site(control_plane: ControlPlane, ports: PortLease, tmp_path_factory: pytest.TempPathFactory) -> StartSite:
    """Start a site of so many replicas for a `with` block."""

    @contextmanager
    def start(replicas: int, environment: Mapping[str, str] | None = None) -> Iterator[Site]:
        directory: Path = tmp_path_factory.mktemp("site")
        with Site(control_plane, directory, ports, replicas, environment=environment).running() as site:
            yield site

    return start


@pytest.fixture(scope="module")
def site(start_site: StartSite) -> Iterator[Site]:
    """A site that the tests of a module share; nobody breaks it."""
    with start_site(3) as site:
        yield site


@pytest.fixture
def second(tmp_path: Path) -> Iterator[ControlPlane]:
    """Another cluster, for one test alone."""
    with ControlPlane(tmp_path / "second") as plane:
        yield plane

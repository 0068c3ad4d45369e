"""Witnessed sites for the tests that break things.

Who breaks more than replicas starts a control plane of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.ports import PortLease
from tests.chaos.witnessed import WitnessedSite

StartWitnessed = Callable[..., AbstractContextManager[WitnessedSite]]
"""Called with a control plane, and with what else `WitnessedSite` takes."""


@pytest.fixture(scope="session")
def ports() -> Iterator[PortLease]:
    with PortLease() as lease:
        yield lease


@pytest.fixture(scope="session")
def start_witnessed(ports: PortLease, tmp_path_factory: pytest.TempPathFactory) -> StartWitnessed:
    """Start replicas with witnesses around them for a `with` block."""

    @contextmanager
    def start(plane: ControlPlane, **options: Any) -> Iterator[WitnessedSite]:
        directory: Path = tmp_path_factory.mktemp("site")
        with WitnessedSite(plane, directory, ports, **options).running() as site:
            yield site

    return start

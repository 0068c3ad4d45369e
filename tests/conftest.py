"""Fixtures of all tests that need real parts. Each pytest-xdist worker has a control plane of its own."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from dragonfly.sandbox.controlplane import ControlPlane
from tests.virtual_time import VirtualLoop

# How long an example takes says more about the computer than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """On which loop an async test runs."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Real etcd, kube-apiserver and Tinkerbell on loopback, shared by the session: use object names of your own.

    A test that breaks a part (kill, pause, compaction) starts a `ControlPlane` of its own.
    """
    with ControlPlane() as plane:
        yield plane

"""Fixtures of all tests that need real parts. Each pytest-xdist worker has a control plane of its own."""

from collections.abc import Iterator

import pytest

from dragonfly.sandbox.controlplane import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Real etcd, kube-apiserver and Tinkerbell on loopback, shared by the session: use object names of your own.

    A test that breaks a part (kill, pause, compaction) starts a `ControlPlane` of its own.
    """
    with ControlPlane() as plane:
        yield plane

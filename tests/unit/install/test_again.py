"""What stands on a host is not lost by saying `install` with other options: that is refused, with how to go on."""

from typing import Any

import msgspec
import pytest

from dragonfly.install.host_facts import HostFacts
from dragonfly.install.options import ExternalEtcd, Options
from dragonfly.install.preflight import Check, errors, preflight

EXTERNAL = ExternalEtcd(endpoints=("https://a:2379",), ca_file="/ca", username="dragonfly", password_file="/pw")
FOUNDER = Options(image="x/y:1")
JOINED = Options(image="x/y:1", etcd="", join="10.0.0.50", token_file="/token")
INSTALLED = ("data", "k3s", "manifests", "etcd")


def found(before: Options, asked: Options, steps: tuple[str, ...] = INSTALLED, **facts: Any) -> tuple[Check, ...]:
    host = HostFacts(address="10.0.0.1", network="10.0.0.0/24", interface="eth0", before=before, steps=steps)
    return errors(preflight(asked, msgspec.structs.replace(host, **facts)))


def with_endpoints(*endpoints: str) -> Options:
    return Options(image="x/y:1", etcd="external", external=msgspec.structs.replace(EXTERNAL, endpoints=endpoints))


@pytest.mark.parametrize(
    ("before", "asked", "words"),
    [
        (FOUNDER, JOINED, "this host founded a cluster, and was told to join that of 10.0.0.50"),
        (JOINED, FOUNDER, "this host joined the cluster of 10.0.0.50, and was told to found one"),
        (FOUNDER, msgspec.structs.replace(FOUNDER, etcd="dedicated"), "was installed with --etcd shared"),
        (with_endpoints("https://a:2379"), FOUNDER, "was installed with --etcd external, and --etcd shared"),
        (with_endpoints("https://a:2379"), with_endpoints("https://b:2379"), "the swarm's etcd is https://a:2379"),
    ],
)
def test_what_would_lose_what_stands_is_refused(before: Options, asked: Options, words: str) -> None:
    (error,) = found(before, asked, is_installed=True, is_started=True)

    assert words in error.found
    assert "To go on with what stands: dragonfly install" in error.remedy
    assert "dragonfly uninstall --delete-data" in error.remedy


def test_a_founder_that_left_its_cluster_neither_founds_nor_joins_with_what_it_has_of_it() -> None:
    for asked in (FOUNDER, JOINED):
        (error,) = found(FOUNDER, asked, kept_data=True, left_to=("host-2", "host-3"))

        assert "left the cluster that it had founded to host-2, host-3" in error.found
        assert "dragonfly uninstall --delete-data" in error.remedy


def test_data_that_stayed_is_as_little_lost() -> None:
    (error,) = found(FOUNDER, msgspec.structs.replace(FOUNDER, etcd="dedicated"), kept_data=True)

    assert error.name == "etcd"


@pytest.mark.parametrize(
    ("before", "asked", "steps"),
    [
        (FOUNDER, FOUNDER, INSTALLED),
        (JOINED, msgspec.structs.replace(JOINED, join="10.0.0.2"), INSTALLED),
        (JOINED, msgspec.structs.replace(JOINED, etcd="dedicated"), INSTALLED),
        (with_endpoints("https://a:2379"), with_endpoints("https://a:2379", "https://b:2379"), INSTALLED),
        (FOUNDER, JOINED, ("settings", "data")),
        (FOUNDER, msgspec.structs.replace(FOUNDER, etcd="dedicated"), ("data", "k3s", "node")),
    ],
)
def test_what_loses_nothing_is_gone_on_with(before: Options, asked: Options, steps: tuple[str, ...]) -> None:
    assert found(before, asked, steps, is_installed=True, is_started="k3s" in steps) == ()

"""What the options change in the shipped manifests."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from dragonfly.install import k3s
from dragonfly.install.manifests import manifests
from dragonfly.install.options import API_PORT, EtcdMode, ExternalEtcd, Options

DEDICATED = 12_379
EXTERNAL = ("https://10.0.0.9:4001", "https://[fd00::9]:4002", "https://etcd.example.com:2379")


def options(mode: EtcdMode, *endpoints: str) -> Options:
    external = ExternalEtcd(endpoints=endpoints, ca_file="/ca", username="dragonfly", password_file="/pw")
    return Options(etcd=mode, external=external if endpoints else None)


def policies(given: Options) -> dict[str, Any]:
    return {obj["metadata"]["name"]: obj["spec"] for obj in manifests(given) if obj["kind"] == "NetworkPolicy"}


def allowed(given: Options) -> list[int]:
    """The TCP ports that replicas may connect to, wherever they are."""
    rules = policies(given)["dragonfly"]["egress"]
    assert all(rule.keys() == {"ports"} for rule in rules)
    return [port["port"] for rule in rules for port in rule["ports"] if port["protocol"] == "TCP"]


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        (options("shared"), {k3s.GATEWAY_PORT}),
        (options("dedicated"), {DEDICATED}),
        (options("external", *EXTERNAL), {4001, 4002, 2379}),
        # Joining, a host is not told again; the first one has applied what is there.
        (options("external"), set()),
    ],
)
def test_replicas_reach_etcd_the_api_server_and_names(given: Options, needed: set[int]) -> None:
    ports = allowed(given)

    # A Service's address becomes that of a server before policies look at it.
    assert needed | {443, API_PORT, 53} <= set(ports)
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize("mode", get_args(EtcdMode))
def test_replicas_reach_no_other_port_than_those_of_their_manifest(mode: EtcdMode) -> None:
    shipped = {443, API_PORT, 53, 2379, k3s.GATEWAY_PORT, DEDICATED}

    assert set(allowed(options(mode))) == shipped
    if mode == "external":
        assert set(allowed(options(mode, *EXTERNAL))) - shipped == {4001, 4002}


@pytest.mark.parametrize("mode", get_args(EtcdMode))
def test_the_port_that_the_pods_serve_is_open_and_all_else_in_the_namespace_is_closed(mode: EtcdMode) -> None:
    found = policies(options(mode))
    (deployment,) = (obj for obj in manifests(options(mode)) if obj["kind"] == "Deployment")
    pod = deployment["spec"]["template"]

    replicas = found["dragonfly"]
    assert replicas["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    (rule,) = replicas["ingress"]
    assert {port["port"] for port in rule["ports"]} == {port["name"] for port in container["ports"]}
    assert found["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

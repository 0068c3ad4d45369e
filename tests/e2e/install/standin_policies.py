"""k3s's controller of NetworkPolicies, which is kube-router's: rules of this node's packet filter, for its pods.

It knows what Dragonfly's own policies use, which is ports, and refuses to guess at more. What a node sends to its own
pods passes, as kubelets' probes must.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from typing import Any, Final

Object = dict[str, Any]

_CHAINS: Final = {"Ingress": ("KUBE-ROUTER-IN", "-d", "ingress"), "Egress": ("KUBE-ROUTER-OUT", "-s", "egress")}
_HOOKS: Final = ("INPUT", "FORWARD")


class Policies:
    """Those that are in force on this node."""

    def __init__(self) -> None:
        self._in_force = ""

    def enforce(self, policies: list[Object], pods: list[Object]) -> None:
        """Have the packet filter do what the policies say of these pods, which are this node's."""
        rules = "\n".join(["*filter", *_rules(policies, pods), "COMMIT", ""])
        if rules == self._in_force:
            return
        subprocess.run(["iptables-restore", "--wait", "--noflush"], input=rules, text=True, check=True)
        for hook in _HOOKS:
            for chain, *_ in _CHAINS.values():
                jump = (hook, "--jump", chain)
                there = subprocess.run(["iptables", "--wait", "--check", *jump], capture_output=True, check=False)
                if there.returncode != 0:
                    subprocess.run(["iptables", "--wait", "--insert", *jump], check=True)
        self._in_force = rules


def _rules(policies: list[Object], pods: list[Object]) -> Iterator[str]:
    for chain, *_ in _CHAINS.values():
        yield f":{chain} - [0:0]"
    for direction, (chain, flag, field) in _CHAINS.items():
        yield f"-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
        for pod in sorted(filter(_has_network, pods), key=lambda pod: str(pod["status"]["podIP"])):
            chosen = [policy["spec"] for policy in policies if _selects(policy, pod, direction)]
            if not chosen:
                continue
            match = f"-A {chain} {flag} {pod['status']['podIP']}"
            for protocol, port in sorted(_ports(chosen, field, pod)):
                yield f"{match} -p {protocol} --dport {port} -j RETURN"
            yield f"{match} -j DROP"


def _has_network(pod: Object) -> bool:
    return bool(pod["status"].get("podIP")) and not pod["spec"].get("hostNetwork", False)


def _selects(policy: Object, pod: Object, direction: str) -> bool:
    selector = policy["spec"]["podSelector"]
    assert selector.keys() <= {"matchLabels"}, selector
    is_near = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    labels = pod["metadata"].get("labels", {})
    return (
        is_near
        and direction in policy["spec"]["policyTypes"]
        and selector.get("matchLabels", {}).items() <= labels.items()
    )


def _ports(specs: Iterable[Object], field: str, pod: Object) -> set[tuple[str, int]]:
    """What is allowed, as protocols and ports."""
    found = set()
    for spec in specs:
        for rule in spec.get(field, ()):
            assert rule.keys() == {"ports"}, rule
            found |= {(port["protocol"].lower(), _number(port["port"], pod)) for port in rule["ports"]}
    return found


def _number(port: int | str, pod: Object) -> int:
    """A port by its number, or by the name that it has in the pod."""
    if isinstance(port, int):
        return port
    (number,) = (
        one["containerPort"]
        for container in pod["spec"]["containers"]
        for one in container.get("ports", ())
        if one.get("name") == port
    )
    return int(number)

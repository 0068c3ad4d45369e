"""The table of modes: what was found here, in each combination, and what follows."""

import itertools
from typing import Any

import pytest

from dragonfly.install.detection import (
    ClusterFacts,
    Detection,
    EtcdFound,
    Facts,
    Namespace,
    RelayFacts,
    SecretFacts,
    Trouble,
    detect,
)

ALL = ("hardware.tinkerbell.org", "workflows.tinkerbell.org")
ENDPOINTS = ("https://10.0.0.1:2379",)


def cluster(*present: str, missing: tuple[str, ...] = (), unseen: str = "") -> ClusterFacts:
    namespaces = [Namespace(name, present=name in present) for name in ("tinkerbell", "tink-system")]
    seen = [namespace._replace(present=None) if namespace.name == unseen else namespace for namespace in namespaces]
    return ClusterFacts(
        "kubeconfig /k", "x", "https://k:6443", version="v1.36.3", missing=missing, namespaces=tuple(seen)
    )


TINK_SYSTEM = cluster("tink-system", missing=ALL)
TINKERBELL = cluster("tinkerbell")
WITHOUT = cluster("tinkerbell", missing=ALL)
AWAY = ClusterFacts("kubeconfig /k", error="https://k:6443: no answer within 9 s")
BROKEN = ClusterFacts("kubeconfig /k", error="/k: is no valid YAML", trouble="broken")


def found(**facts: Any) -> Detection:
    base = Facts(installed=False, directory="/var/lib/dragonfly", has_directory=False, namespace="tinkerbell")
    return detect(base._replace(**facts))


@pytest.mark.parametrize(
    ("installed", "has_directory", "reached"),
    list(itertools.product([True, False], [True, False], [None, AWAY, BROKEN, WITHOUT, TINK_SYSTEM, TINKERBELL])),
)
def test_the_first_of_the_places_that_says_something_decides(
    installed: bool, has_directory: bool, reached: ClusterFacts | None
) -> None:
    detection = found(installed=installed, has_directory=has_directory, cluster=reached)

    reaches_tinkerbell = reached in {TINK_SYSTEM, TINKERBELL}
    expected = "pod" if installed else "local" if has_directory else "remote" if reaches_tinkerbell else "not-installed"
    assert detection.mode == expected
    decided = [finding.looked_at for finding in detection.why if finding.decides]
    assert len(decided) == (expected != "not-installed")


@pytest.mark.parametrize(
    ("reached", "namespace"),
    [
        (cluster("tinkerbell", "tink-system"), "tinkerbell"),
        (cluster("tinkerbell", "tink-system", missing=ALL), "tink-system"),
        (cluster("tinkerbell", missing=("tasks.bmc.tinkerbell.org",)), "tinkerbell"),
        (cluster("tinkerbell", unseen="tinkerbell"), ""),
        (cluster(), ""),
    ],
)
def test_tinkerbells_namespace_counts_with_its_types_and_tink_system_without(
    reached: ClusterFacts, namespace: str
) -> None:
    detection = found(cluster=reached)

    assert detection.cluster is not None
    assert detection.cluster.namespace == namespace
    assert detection.mode == ("remote" if namespace else "not-installed")


def test_every_place_that_was_looked_at_is_told() -> None:
    detection = found(cluster=cluster("tink-system", missing=ALL, unseen="tinkerbell"))

    assert [(finding.looked_at, finding.found) for finding in detection.why] == [
        ("DRAGONFLY_INSTALLED", "not set"),
        ("/var/lib/dragonfly", "not there"),
        ("kubeconfig /k", "reaches Kubernetes v1.36.3, context x"),
        ("namespace tinkerbell", "these credentials may not see it, nor list Hardware in it"),
        ("namespace tink-system", "there"),
        ("Tinkerbell's types", "missing: hardware.tinkerbell.org, workflows.tinkerbell.org"),
    ]


def test_tinkerbell_elsewhere_than_replicas_look_is_told_and_not_guessed() -> None:
    detection = found(cluster=TINK_SYSTEM, endpoints=ENDPOINTS)

    (advice,) = detection.advice
    assert "set DRAGONFLY_NAMESPACE=tink-system on all of them" in advice


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("absent", "Set KUBECONFIG to a file that is there"),
        ("broken", "Mend the kubeconfig, or the variable that is named"),
        ("refused", "Get new credentials"),
        ("plugin", "exec plugin"),
        ("untrusted", "take its CA"),
        ("unreachable", "whether it can be reached from here"),
    ],
)
def test_what_to_do_depends_on_what_is_wrong(trouble: Trouble, words: str) -> None:
    advice, *_ = found(cluster=AWAY._replace(trouble=trouble), endpoints=ENDPOINTS).advice

    assert words in advice


def test_credentials_that_may_see_nothing_are_no_reason_to_install_tinkerbell() -> None:
    unseen = cluster()._replace(namespaces=(Namespace("tinkerbell", None), Namespace("tink-system", None)))

    (advice,) = found(cluster=unseen, endpoints=ENDPOINTS).advice

    assert "give them Dragonfly's rights" in advice
    assert "Install Tinkerbell" not in advice


SECRET = SecretFacts("Secret tinkerbell/dragonfly-etcd", present=True, endpoints=ENDPOINTS)
ABSENT = SecretFacts("Secret a/b", problem="not there")
RELAY = RelayFacts("Service a/b:http", "https://k:6443/api/v1/namespaces/a/services/http:b:http/proxy/etcd")
NO_SERVICE = RELAY._replace(problem='services "b" not found')
TAKEN = EtcdFound(source="relay", reachable=True, place=RELAY.place, endpoints=(RELAY.url,))


@pytest.mark.parametrize(
    ("facts", "source", "reachable", "words"),
    [
        ({"endpoints": ENDPOINTS}, "settings", True, ""),
        ({"endpoints": ENDPOINTS, "secret": SECRET}, "settings", True, ""),
        ({"endpoints": ENDPOINTS, "endpoints_problem": "no answer"}, "settings", False, "no answer"),
        ({"secret": SECRET, "relay": RELAY}, "secret", True, ""),
        ({"secret": SECRET._replace(problem="no answer"), "relay": RELAY}, "relay", True, ""),
        ({"secret": SECRET._replace(problem="no answer"), "relay": NO_SERVICE}, "secret", False, "no answer"),
        ({"secret": ABSENT, "relay": RELAY}, "relay", True, ""),
        ({"secret": ABSENT, "relay": NO_SERVICE}, "relay", False, "not found"),
        ({"secret": ABSENT, "relay": RELAY._replace(url="", problem="no token")}, "none", False, "a/b:http: no token"),
        ({"taken": TAKEN}, "relay", True, ""),
        ({"taken": TAKEN, "endpoints_problem": "no endpoints"}, "relay", False, "no endpoints"),
        ({"secret": SECRET}, "secret", True, ""),
        ({"secret": SECRET._replace(problem="no answer")}, "secret", False, "no answer"),
        ({"secret": SecretFacts("Secret a/b", problem="not there")}, "none", False, "Secret a/b: not there"),
        ({}, "none", False, "DRAGONFLY_ETCD_ENDPOINTS is not set"),
    ],
)
def test_etcd_is_where_the_settings_say_else_where_the_secret_says(
    facts: dict[str, Any], source: str, reachable: bool, words: str
) -> None:
    detection = found(cluster=TINKERBELL, **facts)

    assert (detection.etcd.source, detection.etcd.reachable) == (source, reachable)
    assert words in detection.etcd.reason
    assert len(detection.advice) == (not reachable)


def test_why_another_way_to_etcd_was_not_taken_is_told() -> None:
    detection = found(cluster=TINKERBELL, secret=SECRET._replace(problem="no answer"), relay=RELAY)

    assert [(finding.looked_at, finding.found, finding.decides) for finding in detection.etcd.why] == [
        ("DRAGONFLY_ETCD_ENDPOINTS", "not set", False),
        (SECRET.place, "no answer", False),
        (RELAY.place, "answers", True),
    ]

"""The shipped alerts ask for metrics, labels and states that there are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from dragonfly.api.problems import PROBLEMS
from dragonfly.store.health import STATES as ETCD_STATES
from dragonfly.swarm.standing import STATES
from dragonfly.telemetry.metrics import Metrics

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
# Those that Prometheus adds to whatever it scrapes.
_ADDED = {"job", "instance"}


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]:
        yield from group["rules"]


def labels_by_metric() -> dict[str, set[str]]:
    """The names under which Prometheus stores what a replica tells, each with its labels."""
    metrics = Metrics(CollectorRegistry(), version="1", replica="a")
    found: dict[str, set[str]] = {}
    for collector in metrics.registry._collector_to_names:
        for name in metrics.registry._collector_to_names[collector]:
            found[name] = set(getattr(collector, "_labelnames", ()))
    return found


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_replicas_tell_and_says_what_it_means(rule: dict[str, Any]) -> None:
    known = labels_by_metric()
    asked = re.findall(r"(dragonfly_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert asked or rule["expr"].startswith("up{"), rule["expr"]

    for name, selector in asked:
        assert name in known
        assert set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\"", selector)) <= known[name]
        for group in re.findall(r"by \((\w+)\)", rule["expr"]):
            assert group in known[name]
    for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
        assert label in _ADDED.union(*(known[name] for name, _ in asked))
    assert rule["labels"]["severity"] in {"page", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}


def test_alerts_name_states_that_there_are() -> None:
    named = {
        (metric, state)
        for rule in rules()
        for metric, states in re.findall(r'(dragonfly_\w+_state)\{state[=!~]+"([^"]*)"\}', rule["expr"])
        for state in states.split("|")
    }
    states: dict[str, set[str]] = {"dragonfly_store_state": {*ETCD_STATES}, "dragonfly_replica_state": {*STATES}}

    assert named
    assert all(state in states[metric] for metric, state in named)


def test_prometheus_is_told_of_the_alerts_and_by_the_name_that_they_ask_for() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))

    assert config["rule_files"] == ["alerts.yaml"]
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert {job for rule in rules() for job in re.findall(r'job="(\w+)"', rule["expr"])} == jobs


def test_every_metric_is_documented_in_its_own_words() -> None:
    page = (MONITORING.parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(dragonfly_\w+)` \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    metrics = Metrics(CollectorRegistry(), version="1", replica="a")

    assert {name: (set(re.findall(r"\w+", labels)), words) for name, labels, words in rows} == {
        f"{collector._name}_total" if collector._type == "counter" else collector._name: (
            set(collector._labelnames),
            collector._documentation,
        )
        for collector in metrics.registry._collector_to_names
        if isinstance(collector, MetricWrapperBase)
    }


def test_every_state_is_documented() -> None:
    page = (MONITORING.parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([a-z-]+)` \| ", page, re.MULTILINE)

    assert documented == [*STATES, *ETCD_STATES]
    assert all(kind in PROBLEMS for kind in re.findall(r"503 `([a-z-]+)`", page))

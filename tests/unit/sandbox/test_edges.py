"""Small decisions of the sandbox that stand alone."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from dragonfly.sandbox.__main__ import main
from dragonfly.sandbox.demo import DemoFailed, DemoOptions, _check
from dragonfly.sandbox.haproxy import LoadBalancer
from dragonfly.sandbox.kubeapi import resource_path
from dragonfly.sandbox.progress import duration
from dragonfly.sandbox.shipped import shipped


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}},
            "/api/v1/namespaces/n",
        ),
        (
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "Role",
                "metadata": {"name": "r", "namespace": "n"},
            },
            "/apis/rbac.authorization.k8s.io/v1/namespaces/n/roles/r",
        ),
    ],
)
def test_the_path_of_an_object(document: dict[str, object], path: str) -> None:
    assert resource_path(document) == path


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min 0 s"), (185, "3 min 5 s")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_balancer_has_places_for_nine(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="9 replicas, not 10"):
        LoadBalancer(Path("haproxy"), tmp_path, port=1, stats_port=2, replicas=["x:1"] * 10)
    assert 'server replica-9 "${DRAGONFLY_REPLICA_9}"' in shipped("haproxy.cfg").read_text()
    assert "replica-10" not in shipped("haproxy.cfg").read_text()


@pytest.mark.parametrize("options", [DemoOptions(replicas=0), DemoOptions(replicas=10), DemoOptions(machines=-1)])
def test_impossible_demos_are_refused(options: DemoOptions) -> None:
    with pytest.raises(DemoFailed, match="must be"):
        _check(options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--server", "127.0.0.1:1"], "Give either --count or --ids-file."),
        (["--server", "127.0.0.1:1", "--count", "1", "--fail-rate", "2"], "rates must be"),
        (["--server", "127.0.0.1:1", "--count", "0"], "x>=1"),
    ],
)
def test_the_simulator_says_what_is_wrong_with_its_arguments(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["agents", *arguments])

    assert result.exit_code == 2
    assert message in result.output

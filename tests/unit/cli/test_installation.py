"""`status` without a swarm and `server` without an etcd, where nothing is: what to do is told, with an exit code."""

import json
from pathlib import Path
from typing import Any

import pytest

from dragonfly.cli.errors import Exit
from dragonfly.cli.installation import refusal
from dragonfly.install.detection import ClusterFound, Detection, EtcdFound, Finding

NOWHERE = EtcdFound(source="none", reachable=False, reason="DRAGONFLY_ETCD_ENDPOINTS is not set")
CLUSTER = ClusterFound(source="kubeconfig /k", reachable=True, version="v1.36.3", namespace="tinkerbell")
AWAY = ClusterFound(source="kubeconfig /k", reachable=False, reason="no answer within 9 s")
BROKEN = ClusterFound(source="kubeconfig /k", reachable=False, broken=True, reason="/k: is no valid YAML")
SECRET = EtcdFound(
    source="secret", reachable=False, place="Secret a/b", endpoints=("http://a:1",), reason="connection refused"
)


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (Detection(mode="not-installed", why=(), etcd=NOWHERE), Exit.NOT_FOUND, "Dragonfly is not installed here"),
        (Detection(mode="not-installed", why=(), etcd=NOWHERE, cluster=AWAY), Exit.UNREACHABLE, "no answer within 9 s"),
        (Detection(mode="local", why=(), etcd=NOWHERE, cluster=BROKEN), Exit.USAGE, "/k: is no valid YAML"),
        (Detection(mode="remote", why=(), etcd=NOWHERE, cluster=CLUSTER), Exit.NOT_FOUND, "no etcd is given"),
        (
            Detection(mode="remote", why=(), etcd=SECRET, cluster=CLUSTER),
            Exit.UNREACHABLE,
            "Secret a/b does not answer",
        ),
        (
            Detection(
                mode="remote",
                why=(),
                etcd=EtcdFound(source="secret", reachable=False, place="Secret a/b", reason="ca: must be PEM"),
                cluster=CLUSTER,
            ),
            Exit.USAGE,
            "Secret a/b cannot be used: ca: must be PEM",
        ),
    ],
)
def test_why_no_replica_can_run_here(found: Detection, code: Exit, words: str) -> None:
    error = refusal(found)

    assert error.exit_code == code
    assert words in error.message
    assert error.advice.endswith("dragonfly demo")


def test_what_was_looked_at_and_what_to_do_is_told() -> None:
    why = (Finding(looked_at="/var/lib/dragonfly", found="not there"),)

    error = refusal(Detection(mode="not-installed", why=why, etcd=NOWHERE, advice=("Set KUBECONFIG.",)))

    assert error.message.endswith("Looked at:\n  /var/lib/dragonfly: not there")
    assert error.advice.startswith("Set KUBECONFIG.\n")


@pytest.mark.parametrize("arguments", [("status",), ("status", "--local")])
def test_status_without_a_swarm_tells_what_is_here(
    dragonfly: Any, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "config"
    broken.write_text("a: [")

    monkeypatch.setenv("KUBECONFIG", str(broken))

    done = dragonfly(*arguments)

    assert done.code == 1
    assert f"Cluster:       {broken}: is no valid YAML: line 1, column 5" in done.lines
    assert ("no swarm is given" in done.err) == (arguments == ("status",))


def test_what_is_here_for_scripts(dragonfly: Any, alone: Path) -> None:
    (alone / ".kube").mkdir()
    (alone / ".kube" / "config").write_text("{}")

    done = dragonfly("status", "--local", "-o", "json")

    document = json.loads(done.out)
    assert done.code == 1
    assert (document["kind"], document["ok"], document["mode"]) == ("LocalStatus", False, "not-installed")
    [looked] = [finding for finding in document["why"] if finding["lookedAt"] == "KUBECONFIG"]
    assert looked["found"].endswith(f"{alone}/.kube/config is there, and is not taken by itself")
    assert f"KUBECONFIG={alone}/.kube/config" in document["advice"][0]


def test_a_server_without_an_etcd_names_the_mistake_in_the_kubeconfig(
    dragonfly: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "config"
    broken.write_text("users: [{name: u, user: 7}]")

    monkeypatch.setenv("KUBECONFIG", str(broken))

    done = dragonfly("server")

    assert done.code == 2
    assert f"{broken}: users[0].user: must have fields" in done.err
    assert "Traceback" not in done.err

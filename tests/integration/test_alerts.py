"""The shipped alerts, judged by Prometheus's own promtool on series as replicas write them."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.contract import debian

pytestmark = pytest.mark.slow  # not among the quick ones: the first run downloads promtool

ALERTS: Final = Path(__file__).parents[2] / "deploy" / "monitoring" / "alerts.yaml"

ERRORS: Final = 'dragonfly_http_requests_total{instance="a",method="GET",route="/x",code="500"}'
UNREADABLE: Final = 'dragonfly_store_undecodable_records_total{instance="a"}'
UNOWNED: Final = 'dragonfly_swarm_unowned_seconds{instance="a",cluster="local"}'
UNREACHED: Final = 'dragonfly_cluster_unreachable_seconds{instance="a",cluster="local"}'
FULL: Final = 'dragonfly_store_state{instance="a",state="full"}'
DEGRADED: Final = 'dragonfly_store_state{instance="a",state="degraded"}'
FENCE_OF_A: Final = 'dragonfly_cluster_admission_policy_installed{instance="a",cluster="local"}'
FENCE_OF_B: Final = 'dragonfly_cluster_admission_policy_installed{instance="b",cluster="local"}'
REACHED: Final = 'dragonfly_cluster_reachable{instance="a",cluster="local"}'
PREFERRED: Final = 'dragonfly_cluster_preferred{instance="a",cluster="local"}'
BUILD: Final = 'dragonfly_build_info{instance="a"}'


@pytest.mark.parametrize(
    ("alert", "series", "fires_at", "silent_at"),
    [
        pytest.param("DragonflyBug", {ERRORS: "_x8 1x200"}, "2m15s", "1m", id="a route's first error"),
        pytest.param("DragonflyBug", {ERRORS: "1x30 2x200"}, "8m", "7m", id="one more error"),
        pytest.param("DragonflyBug", {ERRORS: "_x8 1x200"}, "4m", "20m", id="an error of long ago"),
        pytest.param("DragonflyUnreadableRecord", {UNREADABLE: "_x8 3x200"}, "2m15s", "1m", id="there at the start"),
        pytest.param("DragonflyUnreadableRecord", {UNREADABLE: "0x30 1x200"}, "8m", "7m", id="written later"),
        pytest.param("DragonflyShardWithoutOwner", {UNOWNED: "0x7 1 16 31"}, "2m15s", "2m", id="no owner"),
        pytest.param("DragonflyClusterUnreachable", {UNREACHED: "0x7 6 21"}, "2m", "1m45s", id="unreachable"),
        pytest.param("DragonflyEtcdRefusesWrites", {FULL: "0x7 1x9"}, "2m15s", "1m45s", id="etcd is full"),
        pytest.param("DragonflySwarmGone", {BUILD: "1x7 stale"}, "2m15s", "1m45s", id="no replica"),
        pytest.param("DragonflyFenceMissing", {FENCE_OF_A: "1x8 0x99"}, "7m30s", "7m", id="no fence"),
        pytest.param(
            "DragonflyClusterUnreachableFromOne",
            {REACHED: "1x8 0x99", PREFERRED: "1x107"},
            "3m30s",
            "3m",
            id="a replica of its site does not reach it",
        ),
    ],
)
def test_an_alert_fires_when_it_should_and_not_before(
    tmp_path: Path, alert: str, series: Mapping[str, str], fires_at: str, silent_at: str
) -> None:
    assert _firing(tmp_path, alert, series, fires_at)
    assert not _firing(tmp_path, alert, series, silent_at)


@pytest.mark.parametrize(
    ("alert", "series"),
    [
        pytest.param("DragonflyEtcdRefusesWrites", {DEGRADED: "1x80"}, id="a member is away, writes are taken"),
        pytest.param("DragonflyFenceMissing", {FENCE_OF_A: "1x80", FENCE_OF_B: "0x80"}, id="one replica is yet to see"),
        pytest.param("DragonflyUnreadableRecord", {UNREADABLE: "_x8 0x80"}, id="a replica that just started"),
        pytest.param(
            "DragonflyClusterUnreachableFromOne", {REACHED: "0x80", PREFERRED: "0x80"}, id="a replica of another site"
        ),
    ],
)
def test_an_alert_does_not_fire_for(tmp_path: Path, alert: str, series: Mapping[str, str]) -> None:
    assert not any(_firing(tmp_path, alert, series, at) for at in ("3m", "15m"))


def _firing(directory: Path, alert: str, series: Mapping[str, str], at: str) -> bool:
    """Whether an alert fires at a time, with a value of each series every 15 s.

    promtool compares with what it is told to expect: nothing here, so that whatever fires is a difference.
    """
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": []}],
    }
    tests = {"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": [case]}
    file = directory / f"{alert}.yaml"
    file.write_text(yaml.safe_dump(tests), encoding="utf-8")
    found = subprocess.run(
        (debian.promtool(), "test", "rules", file), capture_output=True, text=True, timeout=60, check=False
    )
    if found.returncode == 0:
        return False
    assert f'alertname="{alert}"' in found.stderr, found.stderr
    return True

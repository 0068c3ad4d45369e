"""HAProxy in front of the replicas, with the configuration that `deploy/lb/` ships, byte for byte."""

import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from dragonfly.sandbox.ports import LOOPBACK
from dragonfly.sandbox.probes import accepts, http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.shipped import shipped

MOST_REPLICAS: Final = 9  # as many places as the configuration has
_READY_SECONDS: Final = 60
_STATS_SECONDS: Final = 10


class LoadBalancer:
    """One HAProxy on loopback."""

    def __init__(self, binary: Path, directory: Path, *, port: int, stats_port: int, replicas: Sequence[str]) -> None:
        """`replicas`: `host:port` of each, nine at most; they need not run yet."""
        if len(replicas) > MOST_REPLICAS:
            raise ValueError(f"the shipped configuration has places for {MOST_REPLICAS} replicas, not {len(replicas)}")
        directory.mkdir(parents=True, exist_ok=True)
        self.url = f"http://{LOOPBACK}:{port}"
        self.stats_url = f"http://{LOOPBACK}:{stats_port}"
        self._metrics = f"{self.stats_url}/metrics?scope=server"
        self._replicas = {f"replica-{number}": address for number, address in enumerate(replicas, 1)}
        environment = {
            "DRAGONFLY_LB_BIND": f"{LOOPBACK}:{port}",
            "DRAGONFLY_LB_STATS": f"{LOOPBACK}:{stats_port}",
            **{f"DRAGONFLY_REPLICA_{number}": address for number, address in enumerate(replicas, 1)},
        }
        # -db: stay in the foreground.
        command = (str(binary), "-db", "-f", str(shipped("haproxy.cfg")))
        program = Program("haproxy", command, directory / "haproxy.log", environment)
        self.service = Service(program, lambda: self._is_ready(port), within=_READY_SECONDS)

    def in_rotation(self) -> set[str]:
        """`host:port` of each replica that new requests go to, by what HAProxy's last check of it told.

        Raises:
            OSError: HAProxy doesn't answer.
        """
        with urllib.request.urlopen(self._metrics, timeout=_STATS_SECONDS) as answer:  # noqa: S310 - on loopback
            content: bytes = answer.read()
        return {
            self._replicas[sample.labels["server"]]
            for family in text_string_to_metric_families(content.decode())
            for sample in family.samples
            if sample.name == "haproxy_server_status"
            and (sample.labels["proxy"], sample.labels["state"], sample.value) == ("replicas", "UP", 1)
        }

    def _is_ready(self, port: int) -> bool:
        return accepts(LOOPBACK, port) and http_ok(f"{self.stats_url}/metrics")

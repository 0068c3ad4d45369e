"""HAProxy in front of the replicas, with the configuration that `deploy/lb/` ships, byte for byte."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dragonfly.sandbox.ports import LOOPBACK
from dragonfly.sandbox.probes import accepts, http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.shipped import shipped

MOST_REPLICAS: Final = 9  # as many places as the configuration has
_READY_SECONDS: Final = 10


class LoadBalancer:
    """One HAProxy on loopback."""

    def __init__(self, binary: Path, directory: Path, *, port: int, stats_port: int, replicas: Sequence[str]) -> None:
        """`replicas`: `host:port` of each, nine at most; they need not run yet."""
        if len(replicas) > MOST_REPLICAS:
            raise ValueError(f"the shipped configuration has places for {MOST_REPLICAS} replicas, not {len(replicas)}")
        directory.mkdir(parents=True, exist_ok=True)
        self.url = f"http://{LOOPBACK}:{port}"
        self.stats_url = f"http://{LOOPBACK}:{stats_port}"
        environment = {
            "DRAGONFLY_LB_BIND": f"{LOOPBACK}:{port}",
            "DRAGONFLY_LB_STATS": f"{LOOPBACK}:{stats_port}",
            **{f"DRAGONFLY_REPLICA_{number}": address for number, address in enumerate(replicas, 1)},
        }
        # -db: stay in the foreground.
        command = (str(binary), "-db", "-f", str(shipped("haproxy.cfg")))
        program = Program("haproxy", command, directory / "haproxy.log", environment)
        self.service = Service(program, lambda: self._is_ready(port), within=_READY_SECONDS)

    def _is_ready(self, port: int) -> bool:
        return accepts(LOOPBACK, port) and http_ok(f"{self.stats_url}/metrics")

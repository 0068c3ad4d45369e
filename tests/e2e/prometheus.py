"""A real Prometheus with the shipped configuration and the shipped alerts, scraping replicas."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dragonfly.sandbox.host import Host
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from tests.contract import debian

_SHIPPED = Path(__file__).parents[2] / "deploy" / "monitoring"


class Prometheus:
    """Not started; `service` is its process."""

    def __init__(self, directory: Path, port: int, targets: Sequence[str], host: Host | None = None) -> None:
        """`targets`: `host:port` of each replica; `host`: where it runs, this computer unless said."""
        host = host or Host()
        directory.mkdir()
        config = yaml.safe_load((_SHIPPED / "prometheus.yaml").read_text())
        config["rule_files"] = [str(_SHIPPED / name) for name in config["rule_files"]]
        config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._url = f"http://{host.seen_at}:{port}"
        flags = {
            "config.file": directory / "prometheus.yaml",
            "storage.tsdb.path": directory / "data",
            "web.listen-address": f"{host.address}:{port}",
        }
        command = (*host.enter, str(debian.prometheus()), *(f"--{flag}={value}" for flag, value in flags.items()))
        program = Program("prometheus", command, directory / "prometheus.log")
        self.service = Service(program, lambda: http_ok(f"{self._url}/-/ready"), within=60)

    def firing(self) -> set[str]:
        """The alerts that fire."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def healthy_rules(self) -> dict[str, str]:
        """The health of every alert's expression: `ok` once it was evaluated."""
        return {rule["name"]: rule["health"] for group in self._get("rules")["groups"] for rule in group["rules"]}

    def up(self) -> set[str]:
        """The targets of the replicas' job that were scraped with success."""
        found = self._get("query?query=up%7Bjob%3D%22dragonfly%22%7D%3D%3D1")["result"]
        return {series["metric"]["instance"] for series in found}

    def _get(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{what}", timeout=10) as answer:
            return json.load(answer)["data"]

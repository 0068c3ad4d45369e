"""Replicas behind HAProxy with an etcd of their own and no cluster: for what etcd does to a swarm."""

import json
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox import apt
from dragonfly.sandbox.haproxy import LoadBalancer
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.progress import SILENT
from dragonfly.sandbox.swarm import Swarm
from tests.contract.etcds import Etcds
from tests.e2e.api import Answer, Api
from tests.e2e.waiting import eventually

PATIENCE: Final = 90.0
"""Seconds for what takes a few on a computer that has nothing else to do."""

_TEMPLATE: Final = {"spec": {"actions": [{"name": "write", "image": "example/image:1", "timeout": 60}]}}


class LoneSwarm:
    """A swarm that reaches no cluster: it registers, serves, and has nothing to drive."""

    def __init__(
        self,
        etcds: Etcds,
        directory: Path,
        ports: PortLease,
        *,
        replicas: int = 2,
        environment: Mapping[str, str] | None = None,
        own: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Nothing starts before `running`.

        Args:
            environment: what the replicas are told beside what they need anyway, or instead of it.
            own: what single replicas are told besides, by id.
        """
        self.etcds = etcds
        self._token = f"df_{secrets.token_urlsafe(32)}"
        self.token_file = directory / "token"
        self.token_file.write_text(self._token)
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(ports.take())))
        told = {
            "DRAGONFLY_ETCD_ENDPOINTS": ",".join(etcds.urls),
            "KUBECONFIG": str(kubeconfig),
            "DRAGONFLY_ADMIN_TOKEN_FILE": str(self.token_file),
            "DRAGONFLY_LOG_FORMAT": "json",
            **(environment or {}),
        }
        self.swarm = Swarm(directory / "swarm", ports, told, replicas=replicas, restart=False, own=own)
        self.balancer = LoadBalancer(
            apt.program("haproxy", SILENT),
            directory / "haproxy",
            port=ports.take(),
            stats_port=ports.take(),
            replicas=[replica.url.removeprefix("http://") for replica in self.swarm.replicas],
        )
        self.urls = tuple(replica.url for replica in self.swarm.replicas)
        self.api = Api(self.balancer.url, self._token)

    @contextmanager
    def running(self) -> Iterator["LoneSwarm"]:
        with ExitStack() as stack:
            stack.enter_context(self.api)
            stack.callback(self.swarm.stop)
            self.swarm.start()
            stack.callback(self.balancer.service.stop)
            self.balancer.service.start()
            yield self

    def api_at(self, number: int) -> Api:
        """One replica's own address."""
        return Api(self.urls[number], self._token)

    @property
    def token(self) -> str:
        return self._token

    @property
    def pids(self) -> list[int]:
        return [replica.service.pid for replica in self.swarm.replicas]

    def put(self, name: str) -> Answer:
        """Try to create a template, once."""
        return self.api.once("POST", "templates", {"metadata": {"name": name}, **_TEMPLATE})

    def written(self, name: str) -> None:
        """Create a template, as a patient client does: what has just come back may say once that it needs a moment."""
        self.api.post("templates", {"metadata": {"name": name}, **_TEMPLATE})

    def list(self) -> Answer:
        return self.api.once("GET", "templates")

    def readyz(self, number: int = 0) -> dict[str, Any]:
        """What a replica says of itself, ready or not."""
        return _json(f"{self.urls[number]}/readyz")

    def etcd_states(self) -> set[str]:
        """How etcd is, as each replica finds it."""
        return {self.readyz(number)["checks"]["etcd"]["state"] for number in range(len(self.urls))}

    def metrics(self, number: int = 0) -> str:
        with urllib.request.urlopen(f"{self.urls[number]}/metrics", timeout=10) as answer:
            content: bytes = answer.read()
        return content.decode()

    def swarm_view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.api.get("swarm")
        return view

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dragonfly", *arguments],
            env={"DRAGONFLY_SERVER": self.balancer.url, "DRAGONFLY_TOKEN": self._token, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def until_all_find(self, state: str) -> None:
        eventually(f"every replica finds etcd {state}", lambda: self.etcd_states() == {state}, within=PATIENCE)

    def until_all_stale(self) -> None:
        """Wait until every replica says that its reads are old, and that it writes nothing."""

        def of(url: str) -> tuple[str, bool]:
            with Api(url, self._token) as api:
                view = api.get("swarm")
            return view["self"]["state"], view.get("stale", 0) > 0

        expected = {("read-only", True)}
        eventually("every replica is stale", lambda: {of(url) for url in self.urls} == expected, within=PATIENCE)

    def until_well(self) -> None:
        """Wait until every replica is ready again and reads are current."""
        everyone = range(len(self.urls))
        eventually("every replica is ready", lambda: all(self.readyz(n)["ready"] for n in everyone), within=PATIENCE)
        eventually("reads are current", lambda: "Dragonfly-Stale" not in self.list().headers, within=PATIENCE)


def _json(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            document: dict[str, Any] = json.load(answer)
            return document
    except urllib.error.HTTPError as error:
        with error:
            refused: dict[str, Any] = json.load(error)
            return refused


def _kubeconfig(port: int) -> dict[str, Any]:
    """One that leads to where nobody listens."""
    named = {"name": "nowhere"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "nowhere",
        "clusters": [{**named, "cluster": {"server": f"http://{LOOPBACK}:{port}"}}],
        "users": [{**named, "user": {"token": "none"}}],
        "contexts": [{**named, "context": {"cluster": "nowhere", "user": "nowhere"}}],
    }

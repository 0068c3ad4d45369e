"""The same name, MAC or cluster registered from two replicas at once: one wins, the other is told who has it."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any, Final, NamedTuple, Self

import pytest
import yaml

from dragonfly.sandbox.controlplane import ControlPlane
from tests.e2e.api import Answer, Api
from tests.e2e.conftest import StartSite
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

_ROUNDS: Final = 40
_NAMESPACE: Final = "registered-twice"
_LOCALS_PLACE: Final = 1


class Race(NamedTuple):
    """What became of two requests that were sent at once."""

    won: Answer
    lost: Answer

    @property
    def winner(self) -> str:
        return str(self.won.document["metadata"]["name"])

    @property
    def revision(self) -> int:
        """At which the winner was written: another replica may not have it yet."""
        return int(self.won.document["metadata"]["revision"])

    @property
    def problem(self) -> tuple[int, str]:
        return self.lost.status, self.lost.document["type"]

    @property
    def detail(self) -> str:
        return str(self.lost.document["detail"])


class Racers:
    """Two clients, each of a replica of its own."""

    def __init__(self, site: Site) -> None:
        self._apis = [site.api_at(replica.url) for replica in site.swarm.replicas]
        self._pool = ThreadPoolExecutor(len(self._apis))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for api in self._apis:
            api.__exit__(None, None, None)

    def post(self, path: str, *bodies: Any) -> Race:
        """Send one body to each replica in the same moment."""
        start = Barrier(len(bodies))

        def send(api: Api, body: Any) -> Answer:
            start.wait(60)
            return api.once("POST", path, body)

        answers = list(self._pool.map(send, self._apis, bodies))
        assert sorted(answer.ok for answer in answers) == [False, True], [answer.document for answer in answers]
        won, lost = sorted(answers, key=lambda answer: not answer.ok)
        return Race(won, lost)


@pytest.fixture(scope="module")
def pair(start_site: StartSite) -> Any:
    with start_site(2) as site, Racers(site) as racers:
        yield site, racers


def test_one_machine_has_the_name(pair: tuple[Site, Racers]) -> None:
    site, racers = pair
    for _ in range(_ROUNDS):
        first, second = site.machines(2)

        race = racers.post("machines", first.document(), Machine(first.name, second.mac).document())

        assert race.problem == (409, "/problems/already-exists")
        assert race.detail.startswith(f"Machine {first.name} exists already.")


def test_one_machine_has_the_mac(pair: tuple[Site, Racers]) -> None:
    site, racers = pair
    for _ in range(_ROUNDS):
        first, second = site.machines(2)

        race = racers.post("machines", first.document(), Machine(second.name, first.mac.upper()).document())

        assert race.problem == (409, "/problems/mac-in-use")
        assert f"{first.mac} already belongs to machine {race.winner} in cluster local." in race.detail
        assert site.api.once("GET", f"machines/{race.winner}?minRevision={race.revision}").ok
        other = second.name if race.winner == first.name else first.name
        assert site.api.once("GET", f"machines/{other}?minRevision={race.revision}").status == 404


@pytest.mark.parametrize("way", ["the same kubeconfig", "another way to it", "out of reach"])
def test_one_cluster_leads_there(pair: tuple[Site, Racers], control_plane: ControlPlane, way: str) -> None:
    site, racers = pair
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}}
    control_plane.apiserver.admin.apply(namespace)
    document = yaml.safe_load(control_plane.admin_kubeconfig.read_text())
    ways = _ways(document, way)
    for number in range(_ROUNDS // 4):
        names = f"one-{number}", f"two-{number}"

        race = racers.post("clusters", *(_cluster(name, to) for name, to in zip(names, ways, strict=True)))

        assert race.problem == (409, "/problems/cluster-registered")
        assert f"Cluster {race.winner} leads to namespace {_NAMESPACE} of the same API server already" in race.detail
        remove = partial(site.api.once, "DELETE", f"clusters/{race.winner}", headers={"If-Match": "*"})
        eventually("whoever is asked knows it, and removes it", lambda: remove().ok, within=60)  # noqa: B023 - at once
        eventually("nobody holds the place", lambda: len(_places(site)) == _LOCALS_PLACE, within=60)


def _ways(document: dict[str, Any], way: str) -> tuple[str, str]:
    cluster = document["clusters"][0]["cluster"]
    if way == "out of reach":
        cluster["server"] = "https://127.0.0.1:9"  # discard: nobody listens
    first = yaml.safe_dump(document)
    if way == "another way to it":
        cluster["tls-server-name"] = "127.0.0.1"
    return first, yaml.safe_dump(document)


def _cluster(name: str, kubeconfig: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"kubeconfig": kubeconfig, "namespace": _NAMESPACE, "shards": 1}}


def _places(site: Site) -> list[str]:
    return [key for key in site.stored() if key.startswith("unique/cluster/")]

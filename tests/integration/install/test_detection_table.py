"""The table of modes with real processes: `dragonfly status --local` told each thing in each combination, pair by pair.

What is looked at: DRAGONFLY_INSTALLED, /var/lib/dragonfly, the way to a cluster (kubeconfig or pod; there, absent or
broken), and what is in the cluster. Each process has a /var/lib and a /run of its own, so nothing of this computer is
found; the API servers are real. `tests/unit/install/test_detection.py` has all combinations of the verdict alone; with
DRAGONFLY_DETECTION_CASES=all they are all tried with processes too, which takes a quarter of an hour.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.ports import LOOPBACK, PortLease

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

INSTALLED: Final = ("", "kubernetes", "no")
DIRECTORY: Final = {"absent": "true", "there": "mkdir /var/lib/dragonfly", "a file": "touch /var/lib/dragonfly"}
WAYS: Final = {
    "none": "KUBECONFIG: not set, and this is no pod",
    "kubeconfig": "reaches Kubernetes v",
    "kubeconfig of nonsense": "is no",
    "kubeconfig to nobody": "https://127.0.0.1:",
    "pod": "the pod's service account: reaches Kubernetes v",
    "pod without files": "KUBECONFIG: not set, and this is no pod",
    "pod with a wrong authority": "the pod's service account: ",
    "pod whose token is refused": "does not accept the credentials",
    "kubeconfig in a pod to nobody": "reaches Kubernetes v",
}
"""Each with what is told of it."""
REACHED: Final = frozenset({"kubeconfig", "pod", "kubeconfig in a pod to nobody"})
CONTENTS: Final = {
    "nothing": "",
    "tink-system": "tink-system",
    "tinkerbell without its types": "",
    "tinkerbell": NAMESPACE,
    "both": NAMESPACE,
}
"""Each with the namespace that decides; empty for none."""
_ACCOUNT: Final = "/run/secrets/kubernetes.io/serviceaccount"
_ENTER: Final = (
    "mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /run && mkdir -p {account} && {directory}"
    ' && if [ -d "$0" ]; then cp "$0"/* {account}/; fi && exec "$@"'
)


class Case(NamedTuple):
    """One line of the table."""

    installed: str
    directory: str
    way: str
    contents: str

    @property
    def mode(self) -> str:
        if self.installed == "kubernetes":
            return "pod"
        if self.directory == "there":
            return "local"
        return "remote" if self.way in REACHED and CONTENTS[self.contents] else "not-installed"

    @property
    def decides(self) -> list[str]:
        """The line that says what the mode follows from."""
        return {
            "pod": ["DRAGONFLY_INSTALLED: set"],
            "local": ["/var/lib/dragonfly: there"],
            "remote": [f"namespace {CONTENTS[self.contents]}: there"],
            "not-installed": [],
        }[self.mode]


def pairwise(*choices: Sequence[str]) -> list[Case]:
    """Cases, few of them, among which each two choices come together."""

    def pairs(case: tuple[str, ...]) -> set[tuple[tuple[int, str], ...]]:
        return set(itertools.combinations(enumerate(case), 2))

    every = list(itertools.product(*choices))
    left = set().union(*map(pairs, every))
    table: list[Case] = []
    while left:
        best = max(every, key=lambda case: len(pairs(case) & left))
        left -= pairs(best)
        table.append(Case(*best))
    return table


CHOICES: Final = (INSTALLED, tuple(DIRECTORY), tuple(WAYS), tuple(CONTENTS))
PAIRS: Final = pairwise(*CHOICES)
EVERY: Final = [Case(*case) for case in itertools.product(*CHOICES)]
TABLE: Final = EVERY if os.environ.get("DRAGONFLY_DETECTION_CASES") == "all" else PAIRS


class Place:
    """A cluster in a certain state, and the ways to it."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path, nobody: int, directory: Path) -> None:
        """`nobody`: a port on which nobody listens."""
        self._url = urlsplit(plane.apiserver.url)
        self._nobody = nobody
        self._directory = directory
        self._kubeconfig = kubeconfig
        document = yaml.safe_load(kubeconfig.read_text())
        self._good = self._account("good", _token(document), _authority(document))
        self._files = {
            "pod": self._good,
            "pod with a wrong authority": self._account("wrong", _token(document), b"nonsense"),
            "pod whose token is refused": self._account("refused", b"nobody's", _authority(document)),
            "kubeconfig in a pod to nobody": self._good,
        }

    def told(self, case: Case) -> str:
        """What a process says that finds itself so."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRAGONFLY_", "KUBE"))}
        env = kept | {"HOME": str(self._directory)} | self._environment(case.way)
        if case.installed:
            env["DRAGONFLY_INSTALLED"] = case.installed
        script = _ENTER.format(account=_ACCOUNT, directory=DIRECTORY[case.directory])
        command = ("unshare", "--mount", "sh", "-c", script, str(self._files.get(case.way, "/nothing")))
        status = (sys.executable, "-m", "dragonfly", "status", "--local")
        done = subprocess.run([*command, *status], env=env, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1, f"{case}: there is no etcd anywhere\n{done.stdout}{done.stderr}"
        return done.stdout

    def _environment(self, way: str) -> dict[str, str]:
        env = {}
        if way.startswith("kubeconfig"):
            env["KUBECONFIG"] = str(self._kubeconfig_for(way))
        if "pod" in way:
            port = self._nobody if way.endswith("to nobody") else self._url.port
            env |= {"KUBERNETES_SERVICE_HOST": str(self._url.hostname), "KUBERNETES_SERVICE_PORT": str(port)}
        return env

    def _kubeconfig_for(self, way: str) -> Path:
        if way in REACHED:
            return self._kubeconfig
        path = self._directory / way.replace(" ", "-")
        document = yaml.safe_load(self._kubeconfig.read_text())
        document["clusters"][0]["cluster"]["server"] = f"https://{LOOPBACK}:{self._nobody}"
        path.write_text("nonsense: [" if way.endswith("nonsense") else yaml.safe_dump(document))
        return path

    def _account(self, name: str, token: bytes, authority: bytes) -> Path:
        account = self._directory / name
        account.mkdir(parents=True)
        (account / "token").write_bytes(token)
        (account / "ca.crt").write_bytes(authority)
        return account


def _token(document: dict[str, Any]) -> bytes:
    return str(document["users"][0]["user"]["token"]).encode()


def _authority(document: dict[str, Any]) -> bytes:
    return base64.b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"])


@pytest.fixture(scope="module")
def nobody() -> Iterator[int]:
    with PortLease() as ports:
        yield ports.take()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that has never heard of Tinkerbell."""
    with ControlPlane(tmp_path_factory.mktemp("bare") / "plane", with_tinkerbell=False) as plane:
        remove(plane, NAMESPACE)
        yield plane


def remove(plane: ControlPlane, namespace: str) -> None:
    """Remove a namespace, with the word that controllers would give, of which there are none."""
    admin, path = plane.apiserver.admin, f"/api/v1/namespaces/{namespace}"
    admin.request("DELETE", path)
    found = admin.request("GET", path).body
    found["spec"]["finalizers"] = []
    assert admin.request("PUT", f"{path}/finalize", found).status == 200
    assert admin.request("GET", path).status == 404


def create(plane: ControlPlane, namespace: str) -> None:
    plane.apiserver.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})


def onlooker(plane: ControlPlane, path: Path) -> Path:
    """A kubeconfig with a token that may see everything, of an account outside of Tinkerbell's namespaces."""
    account = {"kind": "ServiceAccount", "name": "onlooker", "namespace": "default"}
    rbac = "rbac.authorization.k8s.io"
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "onlooker", "namespace": "default"}},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "onlooker"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [account],
        },
    ]
    for document in documents:
        plane.apiserver.admin.apply(document)
    return plane.apiserver.kubeconfig(path, "default", "onlooker", token_hours=1)


def check(place: Place, contents: str) -> None:
    """Compare each line of the table that has these contents with what a process tells."""
    cases = [case for case in TABLE if case.contents == contents]
    with ThreadPoolExecutor(2) as pool:
        told = dict(zip(cases, pool.map(place.told, cases), strict=True))
    for case, text in told.items():
        mode, why = found_in(text)
        assert mode == case.mode, f"{case}\n{text}"
        assert [line.removesuffix(" (decides)") for line in why if line.endswith(" (decides)")] == case.decides, text
        is_there = "there" if case.directory == "there" else "not there"
        assert f"/var/lib/dragonfly: {is_there}" in [line.removesuffix(" (decides)") for line in why], text
        assert any(WAYS[case.way] in line for line in why), f"{case}\n{text}"


def found_in(text: str) -> tuple[str, list[str]]:
    """The mode, and the lines that say what was looked at for it."""
    first, *rest = text.splitlines()
    lines = [line.strip() for line in itertools.takewhile(lambda line: line.startswith(" "), rest)]
    named = re.fullmatch(r"Mode: +(\S+)", first)
    assert named is not None, text
    return named[1], lines


def test_the_table_has_each_two_together_and_is_no_longer_than_it_must_be() -> None:
    met = {pair for case in PAIRS for pair in itertools.combinations(enumerate(case), 2)}

    assert met == {
        ((i, one), (j, other))
        for (i, first), (j, second) in itertools.combinations(enumerate(CHOICES), 2)
        for one in first
        for other in second
    }
    assert len(PAIRS) <= 60
    assert {case.mode for case in PAIRS} == {"pod", "local", "remote", "not-installed"}


@pytest.mark.parametrize("contents", ["nothing", "tink-system", "tinkerbell without its types"])
def test_where_tinkerbells_types_are_not(bare: ControlPlane, contents: str, nobody: int, tmp_path: Path) -> None:
    namespace = {"tink-system": "tink-system", "tinkerbell without its types": NAMESPACE}.get(contents)
    if namespace is not None:
        create(bare, namespace)
    try:
        check(Place(bare, onlooker(bare, tmp_path / "config"), nobody, tmp_path / "files"), contents)
    finally:
        if namespace is not None:
            remove(bare, namespace)


def test_where_they_are(control_plane: ControlPlane, nobody: int, tmp_path: Path) -> None:
    """With Dragonfly's own rights, which end at the namespace."""
    check(Place(control_plane, control_plane.kubeconfig, nobody, tmp_path / "files"), "tinkerbell")


def test_where_there_are_both(control_plane: ControlPlane, nobody: int, tmp_path: Path) -> None:
    create(control_plane, "tink-system")
    try:
        check(Place(control_plane, onlooker(control_plane, tmp_path / "config"), nobody, tmp_path / "files"), "both")
    finally:
        remove(control_plane, "tink-system")

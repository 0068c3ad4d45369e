"""Webhooks on real parts: receivers that are down, slow, gone or elsewhere, and the replica that delivers killed."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.sandbox.pki import write_private
from dragonfly.sandbox.ports import PortLease
from dragonfly.store.client import EtcdStore
from dragonfly.webhooks.signature import HEADER
from tests.contract.etcds import CURRENT, Etcds, build
from tests.e2e.lone_swarm import PATIENCE, LoneSwarm
from tests.e2e.waiting import eventually
from tests.e2e.webhook_receiver import GOOD, Got, Receiver, Reply
from tests.unit.webhooks.documented import is_genuine

pytestmark = [pytest.mark.etcd, pytest.mark.slow]

_MACHINES: Final = tuple(f"m-{number}" for number in range(1, 7))
_SECRET: Final = "a-secret-of-the-tests-own"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def swarm(tmp_path: Path, ports: PortLease) -> Iterator[LoneSwarm]:
    key = tmp_path / "secret.key"
    write_private(key, b"a text of more than thirty-two characters\n")
    told = {
        "DRAGONFLY_SECRET_KEY_FILE": str(key),
        "DRAGONFLY_WEBHOOK_ALLOW": "127.0.0.0/8",
        "DRAGONFLY_WEBHOOK_HTTP": "yes",
    }
    directory = tmp_path / "etcd"
    directory.mkdir()
    etcd = Etcds(directory, ports, build(CURRENT))
    try:
        etcd.start()
        with LoneSwarm(etcd, tmp_path, ports, replicas=3, environment=told).running() as swarm:
            yield swarm
    finally:
        etcd.stop()


class Operator:
    """Makes machines and webhooks, and remembers at which revisions machines changed."""

    def __init__(self, swarm: LoneSwarm) -> None:
        self._api = swarm.api
        self.revisions: dict[str, list[int]] = {name: [] for name in _MACHINES}

    def webhook(self, name: str, url: str, **spec: Any) -> None:
        self._api.post("webhooks", {"metadata": {"name": name}, "spec": {"url": url, "secret": _SECRET, **spec}})

    def change(self, name: str, **spec: Any) -> None:
        answer = self._api.patiently("PATCH", f"webhooks/{name}", {"spec": spec}, {"If-Match": "*"})
        assert answer.ok, answer

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self._api.get(f"webhooks/{name}")["status"]
        return status

    def owner_but(self, *others: str) -> str:
        """Who delivers to the webhook `all`, if that is none of these."""
        owner: str = self.status("all")["owner"]
        return owner if owner not in others else ""

    def create(self) -> None:
        for number, name in enumerate(_MACHINES):
            spec = {"interfaces": [{"mac": f"02:00:00:00:00:{number:02x}"}]}
            self._note(name, self._api.post("machines", {"metadata": {"name": name}, "spec": spec}))

    def label(self, said: str, *names: str) -> None:
        for name in names or _MACHINES:
            change = {"metadata": {"labels": {"said": said}}}
            answer = self._api.patiently("PATCH", f"machines/{name}", change, {"If-Match": "*"})
            assert answer.ok, answer
            self._note(name, answer.document)

    def _note(self, name: str, machine: dict[str, Any]) -> None:
        self.revisions[name].append(machine["metadata"]["revision"])


def _missing(operator: Operator, got: list[Got]) -> set[tuple[str, int]]:
    here = {(one.change["name"], one.change["revision"]) for one in got if one.event != "reset"}
    return {(name, revision) for name, many in operator.revisions.items() for revision in many} - here


def _out_of_order(got: list[Got]) -> list[tuple[str, list[int]]]:
    """The machines whose changes did not come in order, counting each change when it came first."""
    firsts: dict[str, list[int]] = {}
    for one in got:
        seen = firsts.setdefault(one.change["name"], [])
        if one.change["revision"] not in seen:
            seen.append(one.change["revision"])
    return [(name, revisions) for name, revisions in firsts.items() if revisions != sorted(revisions)]


def test_at_least_once_in_order_and_none_lost_whatever_fails(swarm: LoneSwarm, receiver: Receiver) -> None:
    """Down, slow, refusing one machine, the replica killed, the next one frozen; another receiver never answers."""
    operator = Operator(swarm)
    never = threading.Event()
    receiver.replies["/never"] = lambda _: Reply(after=never)
    operator.webhook("never", f"{receiver.url}/never", kinds=["Machine"])
    operator.webhook("all", f"{receiver.url}/all", kinds=["Machine"])
    operator.create()
    eventually("all machines are told", lambda: not _missing(operator, receiver.at("/all")), within=PATIENCE)

    receiver.replies["/all"] = lambda _: Reply(503, {"Retry-After": "1"})
    operator.label("down")
    eventually("it is told that it fails", lambda: "failingSince" in operator.status("all"), within=PATIENCE)
    assert "503" in operator.status("all")["lastError"]
    receiver.replies["/all"] = lambda got: Reply(500) if got.change["name"] == "m-1" else GOOD
    operator.label("one-is-refused")
    others = {name: many for name, many in operator.revisions.items() if name != "m-1"}
    wanted = {(name, revision) for name, many in others.items() for revision in many}
    eventually("the others go on", lambda: not wanted & _missing(operator, receiver.at("/all")), within=PATIENCE)
    saved = others["m-6"][-1]
    eventually("the cursor goes on", lambda: operator.status("all")["cursor"] >= saved, within=PATIENCE)

    hold = threading.Event()
    receiver.replies["/all"] = lambda _: Reply(204, after=hold)
    operator.label("killed-in-the-middle")
    eventually("deliveries are under way", lambda: _labelled(receiver.tries_at("/all"), "killed"), within=PATIENCE)
    owner = eventually("somebody delivers", lambda: operator.status("all")["owner"], within=PATIENCE)
    swarm.swarm.replica(owner).service.kill()
    operator.label("after-the-kill")
    hold.set()
    del receiver.replies["/all"]

    frozen = eventually("another delivers", lambda: operator.owner_but(owner), within=PATIENCE)
    swarm.swarm.kill(frozen, signal.SIGSTOP)
    operator.label("while-it-is-frozen")
    eventually("the last one delivers", lambda: operator.owner_but(owner, frozen), within=PATIENCE)
    operator.label("before-it-wakes")
    swarm.swarm.kill(frozen, signal.SIGCONT)
    operator.label("after-it-woke")
    eventually("none is lost", lambda: not _missing(operator, receiver.at("/all")), within=PATIENCE)
    assert _out_of_order(receiver.at("/all")) == []
    assert [got for got in receiver.at("/all") if got.event == "reset"] == []
    eventually("all is well", lambda: "failingSince" not in operator.status("all"), within=PATIENCE)
    eventually("it is not waited for", lambda: "lastError" in operator.status("never"), within=PATIENCE)
    assert operator.status("never")["lastError"] == "no answer within 10 s"
    never.set()
    eventually("it gets everything too", lambda: not _missing(operator, receiver.at("/never")), within=PATIENCE)
    assert _out_of_order(receiver.at("/never")) == []
    assert all(is_genuine(got.body, got.headers[HEADER], _SECRET) for got in receiver.at("/all"))
    assert not any(is_genuine(got.body, got.headers[HEADER], "x" * 20) for got in receiver.at("/all"))


def test_what_etcd_has_forgotten_is_a_reset_and_nothing_comes_before_it(swarm: LoneSwarm, receiver: Receiver) -> None:
    operator = Operator(swarm)
    operator.webhook("all", f"{receiver.url}/all", kinds=["Machine"])
    operator.create()
    eventually("all machines are told", lambda: not _missing(operator, receiver.at("/all")), within=PATIENCE)
    halted = swarm.api.patiently("PATCH", "webhooks/all", {"spec": {"enabled": False}}, {"If-Match": "*"})
    assert halted.ok
    operator.label("while-it-is-halted")
    asyncio.run(_compact(swarm.etcds, operator.revisions["m-6"][-1]))
    before = len(receiver.at("/all"))
    # The replicas remember by themselves; those that begin now have only what etcd knows.
    for replica in swarm.swarm.replicas:
        replica.service.stop()
        replica.service.start()
    swarm.until_well()

    swarm.api.patiently("PATCH", "webhooks/all", {"spec": {"enabled": True}}, {"If-Match": "*"})
    eventually("a reset comes", lambda: len(receiver.at("/all")) > before, within=PATIENCE)
    reset = receiver.at("/all")[before]
    assert (reset.event, reset.change["reason"]) == ("reset", "compacted")
    assert reset.change["revision"] >= operator.revisions["m-6"][-1]
    operator.label("after-the-reset")
    last = {(name, many[-1]) for name, many in operator.revisions.items()}
    eventually("it goes on", lambda: not last & _missing(operator, receiver.at("/all")), within=PATIENCE)


def test_receivers_that_want_nothing_or_are_elsewhere(swarm: LoneSwarm, receiver: Receiver) -> None:
    operator = Operator(swarm)
    receiver.replies["/gone"] = lambda _: Reply(410)
    receiver.replies["/moved"] = lambda _: Reply(302, {"Location": f"{receiver.url}/elsewhere"})
    for name in ("gone", "moved", "good"):
        operator.webhook(name, f"{receiver.url}/{name}", kinds=["Template"])

    assert swarm.put("ubuntu").status == 201

    eventually("it is disabled", lambda: "disabledBecause" in operator.status("gone"), within=PATIENCE)
    eventually("so it shows", lambda: not swarm.api.get("webhooks/gone")["spec"]["enabled"], within=PATIENCE)
    eventually("the redirect is told", lambda: "lastError" in operator.status("moved"), within=PATIENCE)
    assert "redirects are not followed" in operator.status("moved")["lastError"]
    eventually("the good one got it", lambda: len(receiver.at("/good")) == 1, within=PATIENCE)
    assert receiver.tries_at("/elsewhere") == []
    tested = swarm.api.post("webhooks/good/test")
    assert (tested["delivered"], tested["status"]) == (True, 204)
    assert receiver.at("/good")[-1].event == "test"
    shown = swarm.api.get("webhooks")
    assert _SECRET not in str(shown)

    assert swarm.put("debian").status == 201
    eventually("the good one got it", lambda: len(receiver.at("/good")) == 3, within=PATIENCE)
    assert len(receiver.tries_at("/gone")) == 1
    receiver.replies.pop("/gone")
    operator.change("gone", enabled=True)
    operator.change("moved", url=f"{receiver.url}/elsewhere")
    both = {"ubuntu", "debian"}
    eventually("what 410 refused has come", lambda: _names(receiver.at("/gone")) == both, within=PATIENCE)
    eventually("what was led on has come", lambda: _names(receiver.at("/elsewhere")) == both, within=PATIENCE)

    deleted = swarm.api.patiently("DELETE", "webhooks/gone", headers={"If-Match": "*"})
    assert deleted.status == 204


async def _compact(etcds: Etcds, revision: int) -> None:
    store = EtcdStore(etcds.settings())
    try:
        await store.compact(revision)
    finally:
        await store.close()


def _names(got: list[Got]) -> set[str]:
    return {one.change["name"] for one in got}


def _labelled(tries: list[Got], word: str) -> bool:
    return any(word in one.change["object"]["metadata"]["labels"].get("said", "") for one in tries)

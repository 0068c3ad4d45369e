"""Random histories of a swarm's etcd, the truth of what the API shows at each revision, and a client that checks it."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import strategies as st

from dragonfly.feed.shown import Composer, Ref, Shown
from dragonfly.feed.view import Filter, View, everything
from dragonfly.model.cluster import Cluster, ClusterSpec
from dragonfly.model.machine import InstalledOs, Interface, Machine, MachineSpec, Observed
from dragonfly.model.power import PowerRequest
from dragonfly.model.provision import Active, Provision, ProvisionSpec, ProvisionStatus
from dragonfly.model.selectors import requirements
from dragonfly.model.swarm import Claim, Member
from dragonfly.model.template import Template, TemplateSpec
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.errors import Compacted
from dragonfly.store.mirror import Mirror
from dragonfly.store.past import TooMuch
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Batch, Change, Delete, Put, Snapshot, Write
from tests.unit.store_model import StoreModel

SHARDS = {"local": 2}
"""Of clusters that have no record."""

CLUSTERS = ("local", "far")
MACHINES = ("m-1", "m-2", "m-3")
REPLICAS = ("a", "b")
T0 = datetime(2026, 1, 1, tzinfo=UTC)

State = dict[Ref, Any]


def _machine(name: str, cluster: str, label: str, tag: str) -> Machine:
    metadata = Metadata(name=name, labels={"site": label}, tags=(tag,), created_at=T0, updated_at=T0)
    return Machine(metadata=metadata, spec=MachineSpec(cluster=cluster, interfaces=(Interface(mac=f"02::{name}"),)))


def _provision(machine: str, name: str, phase: Any) -> Provision:
    return Provision(
        metadata=Metadata(name=name, created_at=T0, updated_at=T0),
        spec=ProvisionSpec(machine=machine, template="ubuntu", template_revision=1),
        status=ProvisionStatus(phase=phase),
    )


def _member(replica: str, reaches: frozenset[str], minute: int) -> Member:
    lost = dict.fromkeys(sorted(frozenset(CLUSTERS) - reaches), T0 + timedelta(minutes=minute))
    return Member(id=replica, version="0", address="", started=T0, clusters=tuple(sorted(reaches)), unreachable=lost)


def cluster(shards: int, site: str = "fra1") -> bytes:
    return encode(Cluster(spec=ClusterSpec(shards=shards, sites=(site,))))


_names = st.sampled_from(MACHINES)
_ulids = st.sampled_from(("01A", "01B"))
_clusters = st.sampled_from(CLUSTERS)
_phases = st.sampled_from(("Pending", "Running", "Failed"))
_places = st.sampled_from([(cluster, shard) for cluster in CLUSTERS for shard in range(2)])


def _put(key: str, record: object) -> Write:
    return Put(key, encode(record))


_writes: st.SearchStrategy[Write] = st.one_of(
    st.builds(
        lambda n, c, label, tag: _put(keys.machine(n), _machine(n, c, label, tag)),
        _names,
        _clusters,
        st.sampled_from(("fra", "ams")),
        st.sampled_from(("gpu", "ssd")),
    ),
    st.builds(
        lambda n, os: _put(
            keys.observed(n), Observed(os=InstalledOs(template=os, revision=1, installed_at=T0, provision="01A"))
        ),
        _names,
        st.sampled_from(("ubuntu", "debian")),
    ),
    st.builds(lambda n, u: _put(keys.active(n), Active(provision=n + u, template=TemplateSpec())), _names, _ulids),
    st.builds(lambda n, u, p: _put(keys.provision(n, n + u), _provision(n, n + u, p)), _names, _ulids, _phases),
    st.builds(
        lambda n: _put(
            keys.power(n), PowerRequest(name="01P", machine=n, action="on", requested_by="x", requested_at=T0)
        ),
        _names,
    ),
    st.builds(lambda place, r: _put(keys.claim(*place), Claim(owner=r)), _places, st.sampled_from(REPLICAS)),
    st.builds(
        lambda r, reaches, minute: _put(keys.member(r), _member(r, reaches, minute)),
        st.sampled_from(REPLICAS),
        st.frozensets(_clusters),
        st.integers(0, 3),
    ),
    st.builds(
        lambda c, shards, site: Put(keys.cluster(c), cluster(shards, site)),
        _clusters,
        st.integers(1, 3),
        st.sampled_from(("fra1", "ber1")),
    ),
    st.builds(lambda: Put(keys.template("ubuntu"), template("ubuntu"))),
    st.builds(lambda n: Put(keys.machine(n), b'"not a machine"'), _names),
    st.builds(
        Delete,
        st.one_of(
            *(st.builds(make, _names) for make in (keys.machine, keys.observed, keys.active, keys.power)),
            st.builds(lambda n, u: keys.provision(n, n + u), _names, _ulids),
            st.builds(lambda place: keys.claim(*place), _places),
            st.builds(keys.member, st.sampled_from(REPLICAS)),
            st.builds(keys.cluster, _clusters),
            st.just(keys.template("ubuntu")),
        ),
    ),
)

OPENING: Sequence[Sequence[Write]] = [
    [Put(keys.cluster("far"), cluster(2))],
    [_put(keys.machine(name), _machine(name, "local", "fra", "gpu")) for name in MACHINES],
    [
        _put(keys.provision("m-1", "m-101A"), _provision("m-1", "m-101A", "Pending")),
        _put(keys.active("m-1"), Active(provision="m-101A", template=TemplateSpec())),
        _put(keys.claim("local", 0), Claim(owner="a")),
        _put(keys.member("a"), _member("a", frozenset({"local"}), 0)),
    ],
]
"""How each history begins, so that what is drawn has something to change."""


def _of_fra(shown: Shown) -> bool:
    """What a client may see that is not let see everything."""
    return shown.labels.get("site") == "fra"


commits = st.lists(_writes, min_size=1, max_size=4, unique_by=lambda write: write.key)
"""The writes of one transaction."""

views = st.builds(
    lambda kinds, names, selector, tags, phase, cluster, machine, may_see: View(
        Filter(
            kinds=kinds,
            names=names,
            selector=requirements(selector),
            tags=tags,
            facets=tuple(
                (name, values)
                for name, values in (("phase", phase), ("cluster", cluster), ("machine", machine))
                if values
            ),
        ),
        may_see,
    ),
    st.sampled_from((frozenset(), frozenset({"Machine"}), frozenset({"Machine", "Provision"}))),
    st.sampled_from((frozenset(), frozenset({"m-1", "m-101A"}))),
    st.sampled_from(("", "site=fra", "site!=fra", "site in (fra,lon)")),
    st.sampled_from((frozenset(), frozenset({"gpu"}))),
    st.sampled_from((frozenset(), frozenset({"Available", "Running"}))),
    st.sampled_from((frozenset(), frozenset({"far"}))),
    st.sampled_from((frozenset(), frozenset(), frozenset({"m-1", "m-2"}))),
    st.sampled_from((everything, _of_fra)),
)


class Etcd:
    """A store that remembers each revision: what it changed, and what the API shows after it."""

    def __init__(self) -> None:
        self.store = StoreModel()
        self.batches: list[Batch] = []
        self.compacted = 0
        self.asked: list[int] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while somebody reads earlier revisions."""
        self._mirror = new_mirror()
        self._mirror.replace(Snapshot(self.store.revision, ()))
        self._shown: dict[int, dict[Ref, Shown]] = {self.store.revision: {}}
        self.store.watch(self._remember)

    def state(self, revision: int, view: View) -> State:
        """What the API shows of a view at a revision."""
        return {ref: json.loads(s.json()) for ref, s in self._shown[revision].items() if view.shows(s)}

    def snapshot(self) -> Snapshot:
        items = self.store.items()
        return Snapshot(self.store.revision, tuple(items[key] for key in sorted(items)))

    async def between(self, revision: int, until: int) -> Sequence[Change]:
        """As `Past`."""
        self.asked.append(revision)
        self.meanwhile()
        if revision < self.compacted:
            raise Compacted(self.compacted)
        found = [change for batch in self.batches if revision < batch.revision <= until for change in batch.changes]
        if len(found) > 1_000:
            raise TooMuch("too much")
        return found

    def _remember(self, batch: Batch) -> None:
        self.batches.append(batch)
        self._mirror.apply(batch)
        shown = {s.ref: s for s in Composer(self._mirror, SHARDS).all()}
        for s in shown.values():
            s.json()
        self._shown[batch.revision] = shown


class Told(NamedTuple):
    """One event of a stream."""

    event: str
    data: Any
    id: int | None


class Client:
    """Applies events as docs/feed.md tells clients to, and is strict about what may come."""

    def __init__(self, etcd: Etcd, view: View, position: int, *, coalesced: bool) -> None:
        self.state: State = etcd.state(position, view)
        self.position = position
        self._etcd = etcd
        self._view = view
        self._coalesced = coalesced
        self._unsaid: list[Told] = []

    def feed(self, data: bytes) -> None:
        for told in events(data):
            self._unsaid.append(told)
            if told.id is not None:
                self._apply(told.id)

    def cut(self) -> None:
        """The connection broke: what had no id yet was never said."""
        self._unsaid.clear()

    def _apply(self, position: int) -> None:
        for told in self._unsaid:
            ref = Ref(told.data["kind"], told.data["name"])
            revision = told.data["revision"]
            assert self.position < revision <= position, "neither a duplicate nor from the future"
            assert self._coalesced or revision == position, "no revision ends without an id"
            if told.event == "created":
                assert ref not in self.state
                self.state[ref] = told.data["object"]
            elif told.event == "updated":
                assert ref in self.state
                self.state[ref] = told.data["object"]
            else:
                before = self.state.pop(ref)
                assert self._coalesced or told.data["object"] == before, "deleted as it was seen last"
        self._unsaid.clear()
        self.position = position
        assert self.state == self._etcd.state(position, self._view)


def events(data: bytes) -> Iterable[Told]:
    """Take Server-Sent Events apart."""
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "event" in fields:
            yield Told(fields["event"], json.loads(fields["data"]), int(fields["id"]) if "id" in fields else None)


def new_mirror() -> Mirror:
    return Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda *_: None)


def machine(name: str, *, label: str = "fra", cluster: str = "local") -> bytes:
    return encode(_machine(name, cluster, label, "gpu"))


def template(name: str) -> bytes:
    return encode(Template(metadata=Metadata(name=name, created_at=T0, updated_at=T0), spec=TemplateSpec()))

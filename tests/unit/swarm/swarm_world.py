"""A swarm in a small world: etcd's members, claims and requests to drain, and replicas that act on what they saw.

A replica computes moves from a view that lags by any number of changes, and carries them out one by one, each later
than it thinks, as a transaction with the conditions of `ownership`. It works on a shard while its own view shows its
claim, its lease is held by its own clock, and it is not giving the shard up. Two that work on one shard at once break
the promise.
"""

from datetime import UTC, datetime
from random import Random
from typing import Final, NamedTuple

from dragonfly.model.swarm import Member
from dragonfly.swarm.moves import Asked, Claim, Drain, Held, Move, Release, SwarmView, moves
from dragonfly.swarm.shards import Rank, ShardId, rankings

SETTLE: Final = 2.0
SHARDS: Final = {ShardId("fra", 0): ("fra",), ShardId("fra", 1): ("fra",), ShardId("ams", 0): ()}
_STARTED: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Broken(AssertionError):
    """A promise is broken."""


class Mutation(NamedTuple):
    """What to do wrong on purpose."""

    claim_what_is_taken: bool = False
    delete_before_quiesce: bool = False
    act_without_lease: bool = False


class Etcd(NamedTuple):
    revision: int
    members: dict[str, tuple[int, Member]]
    """By id, with the lease that it hangs on."""
    claims: dict[ShardId, Held]
    drains: dict[ShardId, tuple[int, Asked]]


class Replica:
    def __init__(self, name: str, site: str) -> None:
        self.name = name
        self.site = site
        self.lease = 0
        self.holds = False
        """Whether its lease cannot have ended, by its own clock."""
        self.seen = 0
        """Index of the newest state of etcd in its mirror."""
        self.todo: list[Move] = []
        self.releasing: dict[ShardId, int] = {}
        self.unowned_since: dict[ShardId, float] = {}
        self.first_since: dict[ShardId, float] = {}


class World:
    def __init__(self, names: str = "abc", mutation: Mutation = Mutation()) -> None:  # noqa: B008 - a value
        self.mutation = mutation
        self.now = 0.0
        self.states = [Etcd(1, {}, {}, {})]
        self.leases = 0
        self.replicas = {name: Replica(name, "fra" if name in "ab" else "ams") for name in names}
        for replica in self.replicas.values():
            self.join(replica)

    @property
    def etcd(self) -> Etcd:
        return self.states[-1]

    def join(self, replica: Replica) -> None:
        """Take a lease, and register on it."""
        self.leases += 1
        replica.lease, replica.holds = self.leases, True
        replica.todo, replica.releasing = [], {}
        member = Member(
            id=replica.name, site=replica.site, version="1", address="", started=_STARTED, clusters=("fra", "ams")
        )
        self._write(members={**self.etcd.members, replica.name: (replica.lease, member)})

    def reach(self, replica: Replica, *clusters: str) -> None:
        """Say what clusters it reaches now."""
        held = self.etcd.members.get(replica.name)
        if held is None or held[0] != replica.lease:
            return
        member = Member(
            id=replica.name, site=replica.site, version="1", address="", started=_STARTED, clusters=clusters
        )
        self._write(members={**self.etcd.members, replica.name: (replica.lease, member)})

    def doubt(self, replica: Replica) -> None:
        """Its keepalives fail: by its own clock the lease may be over."""
        replica.holds = False

    def expire(self, replica: Replica) -> None:
        """etcd ends its lease; by its own clock it stopped before."""
        if not self.mutation.act_without_lease:
            replica.holds = False
        lease, etcd = replica.lease, self.etcd
        self._write(
            members={name: held for name, held in etcd.members.items() if held[0] != lease},
            claims={shard: held for shard, held in etcd.claims.items() if held.lease != lease},
            drains={shard: held for shard, held in etcd.drains.items() if held[0] != lease},
        )

    def see(self, replica: Replica, lag: int = 0) -> None:
        replica.seen = max(replica.seen, len(self.states) - 1 - lag)
        view = self.states[replica.seen]
        for shard, epoch in tuple(replica.releasing.items()):
            if view.claims.get(shard) != Held(replica.name, epoch, replica.lease):
                del replica.releasing[shard]
        replica.unowned_since = {
            shard: replica.unowned_since.get(shard, self.now) for shard in SHARDS if shard not in view.claims
        }
        firsts = [shard for shard, rank in _ranks(view).items() if rank[:1] == (replica.name,)]
        replica.first_since = {shard: replica.first_since.get(shard, self.now) for shard in firsts}
        self.check()

    def think(self, replica: Replica) -> None:
        view = self.states[replica.seen]
        swarm = SwarmView(
            members={name: member for name, (_, member) in view.members.items()},
            ranks=_ranks(view),
            claims=view.claims,
            drains={shard: asked for shard, (_, asked) in view.drains.items()},
            unowned_for={shard: self.now - since for shard, since in replica.unowned_since.items()},
            first_for={shard: self.now - since for shard, since in replica.first_since.items()},
        )
        replica.todo = list(moves(replica.name, replica.lease, swarm, settle=SETTLE))

    def act(self, replica: Replica) -> bool:
        """Carry out the next of the moves that it thought of, however long ago."""
        if not replica.todo:
            return False
        match replica.todo.pop(0):
            case Claim(shard):
                self._claim(replica, shard)
            case Drain(shard, epoch):
                self._drain(replica, shard, epoch)
            case Release(shard, epoch):
                if not self.mutation.delete_before_quiesce:
                    replica.releasing[shard] = epoch
                else:
                    self._give_up(shard, epoch)
        self.check()
        return True

    def quiesced(self, replica: Replica) -> bool:
        """Nothing of a shard that it gives up is under way any more: the claim goes."""
        return any(self._give_up(shard, epoch) for shard, epoch in replica.releasing.items())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def works_on(self, shard: ShardId) -> list[str]:
        return [replica.name for replica in self.replicas.values() if self._works(replica, shard)]

    def check(self) -> None:
        for shard in SHARDS:
            if len(workers := self.works_on(shard)) > 1:
                raise Broken(f"{' and '.join(workers)} work on {shard}")

    def settle_down(self) -> None:
        """No more trouble: everybody sees everything, and carries out what follows."""
        for _ in range(60):
            before = self.etcd
            for replica in self.replicas.values():
                if self._is_alive(replica):
                    replica.holds = True
                    self.see(replica)
                    self.think(replica)
                    while self.act(replica):
                        pass
                    while self.quiesced(replica):
                        pass
            self.pass_time(SETTLE)
            if self.etcd.revision == before.revision and self._is_at_rest():
                return
        raise Broken("the swarm does not come to rest")

    def check_rest(self) -> None:
        """Every shard is with the replica that it is assigned to."""
        for shard, rank in _ranks(self.etcd).items():
            if rank and self.etcd.claims[shard].owner != rank[0]:
                raise Broken(f"{shard} is with {self.etcd.claims[shard].owner}, not with {rank[0]}")

    def _is_at_rest(self) -> bool:
        ranks = _ranks(self.etcd)
        return all(not rank or self._owner(shard) == rank[0] for shard, rank in ranks.items())

    def _owner(self, shard: ShardId) -> str:
        claim = self.etcd.claims.get(shard)
        return claim.owner if claim else ""

    def _is_alive(self, replica: Replica) -> bool:
        held = self.etcd.members.get(replica.name)
        return held is not None and held[0] == replica.lease

    def _works(self, replica: Replica, shard: ShardId) -> bool:
        claim = self.states[replica.seen].claims.get(shard)
        is_mine = claim is not None and (claim.owner, claim.lease) == (replica.name, replica.lease)
        return is_mine and replica.holds and shard not in replica.releasing

    def _claim(self, replica: Replica, shard: ShardId) -> None:
        is_free = shard not in self.etcd.claims or self.mutation.claim_what_is_taken
        if not (is_free and self._is_alive(replica) and replica.holds):
            return
        claim = Held(replica.name, self.etcd.revision + 1, replica.lease)
        self._write(claims={**self.etcd.claims, shard: claim})

    def _drain(self, replica: Replica, shard: ShardId, epoch: int) -> None:
        claim = self.etcd.claims.get(shard)
        if claim is not None and claim.epoch == epoch and self._is_alive(replica):
            request = (replica.lease, Asked(replica.name, epoch))
            self._write(drains={**self.etcd.drains, shard: request})

    def _give_up(self, shard: ShardId, epoch: int) -> bool:
        claim = self.etcd.claims.get(shard)
        if claim is None or claim.epoch != epoch:
            return False
        self._write(
            claims={key: held for key, held in self.etcd.claims.items() if key != shard},
            drains={key: held for key, held in self.etcd.drains.items() if key != shard},
        )
        return True

    def _write(
        self,
        members: dict[str, tuple[int, Member]] | None = None,
        claims: dict[ShardId, Held] | None = None,
        drains: dict[ShardId, tuple[int, Asked]] | None = None,
    ) -> None:
        last = self.etcd
        self.states.append(
            Etcd(
                last.revision + 1,
                last.members if members is None else members,
                last.claims if claims is None else claims,
                last.drains if drains is None else drains,
            )
        )


def _ranks(etcd: Etcd) -> dict[ShardId, Rank]:
    return rankings(SHARDS, [member for _, member in etcd.members.values()])


def simulate(random: Random, mutation: Mutation = Mutation(), length: int = 200) -> World:  # noqa: B008 - a value
    """Run one random history, then let the swarm come to rest; raises `Broken`."""
    world = World(mutation=mutation)
    for _ in range(length):
        replica = world.replicas[random.choice("abc")]
        trouble(world, replica, random.randrange(80), random)
    for replica in world.replicas.values():
        if not world._is_alive(replica):
            world.join(replica)
    world.settle_down()
    world.check_rest()
    return world


def trouble(world: World, replica: Replica, choice: int, random: Random) -> None:
    """One thing that happens to a replica; `choice` is 0 to 79."""
    if choice < 22:
        world.see(replica, random.choice((0, 0, 1, 2, 5)))
    elif choice < 38:
        world.think(replica)
    elif choice < 58:
        world.act(replica)
    elif choice < 68:
        world.quiesced(replica)
    elif choice < 75:
        world.pass_time(random.choice((0.1, 1, 5)))
    elif choice == 75:
        world.doubt(replica)
    elif choice == 76:
        world.expire(replica)
    elif choice == 77:
        world.expire(replica)
        world.join(replica)
    else:
        world.reach(replica, *random.choice((("fra",), ("fra", "ams"))))

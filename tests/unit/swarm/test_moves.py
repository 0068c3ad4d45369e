"""What a replica does about shards: never two owners, always one in the end, and a frozen one delays by `settle`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly.model.swarm import Member
from dragonfly.swarm.moves import Asked, Claim, Drain, Held, Move, Release, SwarmView, moves
from dragonfly.swarm.shards import ShardId, rankings
from tests.unit.swarm.swarm_world import SETTLE, SHARDS, Broken, Mutation, World, simulate

SHARD = ShardId("fra", 0)
SEEDS = 600


def member(name: str, *clusters: str) -> Member:
    return Member(
        id=name, version="1", address="", started=datetime(2026, 1, 1, tzinfo=UTC), clusters=clusters or ("fra",)
    )


MEMBERS = {name: member(name) for name in "abc"}
FIRST, SECOND, THIRD = rankings({SHARD: ()}, MEMBERS.values())[SHARD]


def view(
    *,
    members: Mapping[str, Member] = MEMBERS,
    claim: Held | None = None,
    asked: Asked | None = None,
    unowned_for: float = 0.0,
    first_for: float = 2.0,
    shards: tuple[ShardId, ...] = (SHARD,),
) -> SwarmView:
    return SwarmView(
        members=members,
        ranks=rankings(dict.fromkeys(shards, ()), members.values()),
        claims={SHARD: claim} if claim else {},
        drains={SHARD: asked} if asked else {},
        unowned_for={SHARD: unowned_for},
        first_for={SHARD: first_for},
    )


def moves_of(me: str, seen: SwarmView, lease: int = 1) -> list[Move]:
    if seen.ranks.get(SHARD, ())[:1] != (me,):
        seen = seen._replace(first_for={})
    return list(moves(me, lease, seen, settle=2.0))


class TestClaim:
    def test_the_best_claims_at_once(self) -> None:
        assert moves_of(FIRST, view()) == [Claim(SHARD)]

    @pytest.mark.parametrize(("who", "after"), [(SECOND, 2.0), (THIRD, 4.0)])
    def test_each_other_waits_one_settle_for_every_better_one(self, who: str, after: float) -> None:
        assert moves_of(who, view(unowned_for=after - 0.01)) == []
        assert moves_of(who, view(unowned_for=after)) == [Claim(SHARD)]

    def test_who_does_not_reach_the_cluster_does_not_claim(self) -> None:
        members = MEMBERS | {FIRST: member(FIRST, "ams")}

        assert moves_of(FIRST, view(members=members, unowned_for=99)) == []
        assert moves_of(SECOND, view(members=members)) == [Claim(SHARD)]

    def test_who_is_no_member_does_nothing(self) -> None:
        assert moves_of("stranger", view(unowned_for=99)) == []

    def test_who_observes_does_nothing(self) -> None:
        """Even if another version has ranked it."""
        seen = view(unowned_for=99)
        observer = msgspec.structs.replace(MEMBERS[FIRST], observes=True)

        assert moves_of(FIRST, seen._replace(members={**MEMBERS, FIRST: observer})) == []

    def test_a_claim_of_its_own_predecessor_is_not_its_own(self) -> None:
        """After a restart with the same id the old claim stays until etcd ends its lease."""
        seen = view(claim=Held(FIRST, 5, lease=1), asked=Asked(SECOND, 5))

        assert moves_of(FIRST, seen, lease=2) == []


class TestDrain:
    def test_the_best_asks_once_it_has_been_so_for_a_while(self) -> None:
        """Members that come and go must not make shards come and go."""
        claim = Held(THIRD, 5, lease=9)

        assert moves_of(FIRST, view(claim=claim, first_for=1.99)) == []
        assert moves_of(FIRST, view(claim=claim, first_for=2.0)) == [Drain(SHARD, 5)]

    def test_the_best_asks_a_worse_owner_once(self) -> None:
        claim = Held(THIRD, 5, lease=9)

        assert moves_of(FIRST, view(claim=claim)) == [Drain(SHARD, 5)]
        assert moves_of(FIRST, view(claim=claim, asked=Asked(FIRST, 5))) == []
        assert moves_of(SECOND, view(claim=claim)) == []

    def test_a_request_for_an_earlier_epoch_or_of_somebody_gone_does_not_count(self) -> None:
        claim = Held(THIRD, 5, lease=9)

        assert moves_of(FIRST, view(claim=claim, asked=Asked(FIRST, 4))) == [Drain(SHARD, 5)]
        assert moves_of(FIRST, view(claim=claim, asked=Asked("gone", 5))) == [Drain(SHARD, 5)]

    def test_a_dead_owner_is_not_asked(self) -> None:
        assert moves_of(FIRST, view(claim=Held("gone", 5, lease=9))) == []


class TestRelease:
    claim = Held(THIRD, 5, lease=1)

    def test_the_owner_releases_what_it_is_asked_for(self) -> None:
        assert moves_of(THIRD, view(claim=self.claim, asked=Asked(FIRST, 5))) == [Release(SHARD, 5)]

    @pytest.mark.parametrize("asked", [None, Asked(FIRST, 4), Asked("gone", 5), Asked(THIRD, 5)])
    def test_nothing_else_makes_it_release(self, asked: Asked | None) -> None:
        assert moves_of(THIRD, view(claim=self.claim, asked=asked)) == []

    def test_whoever_asks_the_best_keeps_it(self) -> None:
        """The other ranks by an older view, or in another version: to give in would be to hand it back and forth."""
        claim = Held(FIRST, 5, lease=1)

        assert moves_of(FIRST, view(claim=claim, asked=Asked(SECOND, 5))) == []

    def test_an_owner_that_no_longer_reaches_the_cluster_releases(self) -> None:
        members = MEMBERS | {THIRD: member(THIRD, "ams")}

        assert moves_of(THIRD, view(members=members, claim=self.claim)) == [Release(SHARD, 5)]

    def test_unless_nobody_else_reaches_it_either(self) -> None:
        """Whoever would take it over could do no better; and claims would move without end."""
        members = {name: member(name, "ams") for name in "abc"}

        assert moves_of(THIRD, view(members=members, claim=self.claim)) == []

    def test_a_shard_that_is_no_more_is_released(self) -> None:
        assert moves_of(THIRD, view(claim=self.claim, shards=())) == [Release(SHARD, 5)]


@given(st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_any_history_has_one_worker_a_shard_and_comes_to_rest_with_the_best(random: Random) -> None:
    simulate(random)


def test_hundreds_more() -> None:
    for seed in range(SEEDS):
        try:
            simulate(Random(seed))
        except Broken as broken:
            pytest.fail(f"seed {seed}: {broken}")


@pytest.mark.parametrize("mutation", Mutation._fields)
def test_the_checker_finds_what_is_wrong_on_purpose(mutation: str) -> None:
    wrong = Mutation()._replace(**{mutation: True})

    assert any(_is_broken(seed, wrong) for seed in range(SEEDS))


def _is_broken(seed: int, mutation: Mutation) -> bool:
    try:
        simulate(Random(seed), mutation)
    except Broken:
        return True
    return False


def test_a_frozen_best_candidate_delays_by_settle_alone() -> None:
    world = World()
    members = [held for _, held in world.etcd.members.values()]
    best, second = rankings(SHARDS, members)[SHARD][:2]
    replica = world.replicas[second]
    world.see(replica)
    world.think(replica)
    assert Claim(SHARD) not in replica.todo

    world.pass_time(SETTLE)
    world.think(replica)
    while world.act(replica):
        pass

    assert world.etcd.claims[SHARD].owner == second
    world.settle_down()
    assert world.etcd.claims[SHARD].owner == best

"""Shards are where they always were, shares are even, and a replica that comes or goes moves little but its own."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.model.swarm import Member
from dragonfly.swarm.shards import Rank, ShardId, rankings, shard_of, shards_of

NAMES = st.lists(st.text("abcdefghij0123456789-", min_size=1, max_size=12), min_size=1, max_size=8, unique=True)
CLUSTERS = st.sampled_from(["local", "fra", "ams-2"])
SHARDS: dict[ShardId, tuple[str, ...]] = dict.fromkeys(
    (ShardId(f"cluster-{number}", shard) for number in range(100) for shard in range(8)), ()
)


def member(name: str, site: str = "", clusters: tuple[str, ...] = ("local",)) -> Member:
    return Member(
        id=name, site=site, version="1", address="", started=datetime(2026, 1, 1, tzinfo=UTC), clusters=clusters
    )


def everywhere(name: str) -> Member:
    return member(name, clusters=tuple({shard.cluster for shard in SHARDS}))


def shares(ranks: Mapping[ShardId, Rank], names: Iterable[str]) -> list[int]:
    """How many shards are assigned to each."""
    counts = Counter(rank[0] for rank in ranks.values())
    return [counts[name] for name in names]


def test_a_machine_stays_in_its_shard_in_every_version() -> None:
    """Replicas of two versions must agree: both would drive the machine, or none."""
    assert [shard_of(f"m-{number:02}", 8) for number in range(12)] == [5, 6, 0, 1, 5, 5, 5, 7, 5, 6, 3, 2]
    assert shard_of("m-00", 1) == 0


def test_the_ranking_is_the_same_in_every_version() -> None:
    ranks = rankings(dict.fromkeys(shards_of("local", 8), ()), [member(name) for name in ("a", "b", "c")])

    assert " ".join("".join(rank) for rank in ranks.values()) == "acb cab bac bca abc cab bca cab"


def test_a_cluster_has_its_shards_and_machines_spread_over_them() -> None:
    assert shards_of("fra", 3) == [ShardId("fra", 0), ShardId("fra", 1), ShardId("fra", 2)]
    counts = [0] * 8
    for number in range(8_000):
        counts[shard_of(f"m-{number}", 8)] += 1
    assert min(counts) > 800


@given(NAMES, CLUSTERS, st.integers(min_value=1, max_value=40))
def test_the_shares_of_a_cluster_differ_by_one_shard_at_most(names: list[str], cluster: str, count: int) -> None:
    shards = dict.fromkeys(shards_of(cluster, count), ())
    ranks = rankings(shards, [member(name, clusters=(cluster,)) for name in names])

    assert ranks.keys() == shards.keys()
    assert all(sorted(rank) == sorted(names) for rank in ranks.values())
    loads = shares(ranks, names)
    assert sum(loads) == count
    assert max(loads) - min(loads) <= 1


@given(NAMES, st.randoms(use_true_random=False))
def test_only_who_is_there_decides_not_the_order_nor_other_clusters(names: list[str], random: Random) -> None:
    members = [everywhere(name) for name in names]
    one = dict.fromkeys(shards_of("cluster-7", 8), ())
    ranks = rankings(one, members)
    mixed = list(SHARDS)
    random.shuffle(mixed)
    random.shuffle(members)

    found = rankings(dict.fromkeys(mixed, ()), members)

    assert {shard: found[shard] for shard in one} == ranks


@given(NAMES.filter(lambda names: len(names) > 1), CLUSTERS, st.integers(1, 40))
def test_one_that_observes_is_nowhere_in_the_ranking_and_changes_nobodys_share(
    names: list[str], cluster: str, count: int
) -> None:
    """Whatever it says that it reaches."""
    *drivers, observer = names
    shards = dict.fromkeys(shards_of(cluster, count), ())
    members = [member(name, clusters=(cluster,)) for name in drivers]
    watching = msgspec.structs.replace(member(observer, clusters=(cluster,)), observes=True)

    assert rankings(shards, [*members, watching]) == rankings(shards, members)


def test_behind_the_first_the_others_keep_their_order_when_one_goes() -> None:
    """Who claims when the first does not is found for each shard alone, without regard to shares."""
    members = [everywhere(name) for name in "abcd"]
    before = rankings(SHARDS, members)
    after = rankings(SHARDS, members[:-1])

    for shard, rank in after.items():
        kept = [name for name in before[shard][1:] if name != "d"]
        assert [name for name in rank[1:] if name in kept] == [name for name in kept if name != rank[0]]


@pytest.mark.parametrize(("replicas", "most"), [(3, 0.05), (4, 0.12), (5, 0.12), (8, 0.2)])
def test_when_a_replica_goes_few_shards_move_beside_its_own(replicas: int, most: float) -> None:
    """And when one comes, few but those that it gets: it is the same seen from the other side. Even shares have their
    price: where everybody has as many, who goes leaves room that is not where it is wanted."""
    names = [f"replica-{number}" for number in range(replicas)]
    before = rankings(SHARDS, [everywhere(name) for name in names])
    moved = 0
    for gone in names:
        after = rankings(SHARDS, [everywhere(name) for name in names if name != gone])
        moved += sum(before[shard][0] not in {gone, after[shard][0]} for shard in SHARDS)

    assert moved <= most * len(SHARDS) * replicas


@pytest.mark.parametrize("replicas", [2, 3, 4, 5])
@pytest.mark.parametrize("style", ["replica-{}", "{}", "10.0.0.{}:3000"])
def test_many_clusters_of_few_shards_make_even_shares_too(replicas: int, style: str) -> None:
    """Within a tenth, even for ids that differ in one letter."""
    names = [style.format(number) for number in range(replicas)]
    ranks = rankings(SHARDS, [everywhere(name) for name in names])
    even = len(SHARDS) / replicas

    assert all(0.9 * even <= load <= 1.1 * even for load in shares(ranks, names))


def test_clusters_of_one_shard_are_spread_by_chance() -> None:
    """Each is assigned on its own, so the shares are those of fair dice: no replica is left out or has them all."""
    shards = {shard: () for shard in SHARDS if shard.shard == 0}
    ranks = rankings(shards, [everywhere(name) for name in "abc"])

    assert all(20 <= load <= 47 for load in shares(ranks, "abc"))


def test_replicas_of_the_clusters_site_come_first_and_share_evenly() -> None:
    members = [member("far-1", "ams"), member("near-1", "fra"), member("far-2"), member("near-2", "fra")]
    ranks = rankings(dict.fromkeys(shards_of("local", 8), ("fra",)), members)

    assert all(set(rank[:2]) == {"near-1", "near-2"} for rank in ranks.values())
    assert shares(ranks, ["near-1", "near-2"]) == [4, 4]


def test_without_a_replica_of_its_site_a_cluster_is_shared_by_the_others() -> None:
    ranks = rankings(dict.fromkeys(shards_of("local", 8), ("muc",)), [member("a", "ams"), member("b"), member("c")])

    assert sorted(shares(ranks, "abc")) == [2, 3, 3]


def test_who_does_not_reach_the_cluster_is_not_ranked() -> None:
    shard = ShardId("fra", 0)

    assert rankings({shard: ()}, [member("a"), member("b", clusters=("fra",))]) == {shard: ("b",)}
    assert rankings({shard: ()}, [member("a")]) == {shard: ()}

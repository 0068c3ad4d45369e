"""A swarm's own etcd grows with each host that joins and shrinks with each that leaves, wherever that is killed."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from dragonfly.install.cluster import ApiSilent, failed
from dragonfly.install.execution import StepFailed
from dragonfly.install.own_members import (
    Add,
    Label,
    Move,
    Place,
    Promote,
    Remove,
    SetAside,
    Tell,
    Unlabel,
    Wait,
    endpoints,
    joining,
    leaving_problem,
    tolerance,
)
from dragonfly.install.rollouts import keeps_ending
from dragonfly.install.steps import FoundEtcd, JoinEtcd
from dragonfly.kube.errors import Forbidden, KubeError, ServerFailed, Throttled, Unreachable
from dragonfly.store.members import Member
from tests.unit.install.own_etcds import ACCESS, AUTHORITY, OWN, Killed, Server, World

FOUNDER = Member(1, "host-1", ("https://10.0.0.1:12380",), ("https://10.0.0.1:12379",))
SECOND = Member(2, "host-2", ("https://10.0.0.2:12380",), ("https://10.0.0.2:12379",))
ADDED = Member(2, "", SECOND.peers, (), is_learner=True)
LEARNER = Member(2, "host-2", SECOND.peers, SECOND.clients, is_learner=True)
THIRD = Member(3, "host-3", ("https://10.0.0.3:12380",), ("https://10.0.0.3:12379",))
HERE = Place(
    "host-2",
    "10.0.0.2",
    is_labelled=False,
    has_pod=False,
    has_data=False,
    is_told=False,
    nodes={"host-1": "10.0.0.1", "host-2": "10.0.0.2"},
    answering=(1,),
)


@pytest.mark.parametrize(
    ("members", "place", "move"),
    [
        ((FOUNDER,), HERE, Add("https://10.0.0.2:12380")),
        ((FOUNDER, ADDED), HERE, Tell()),
        ((FOUNDER, ADDED), HERE._replace(is_told=True), Label()),
        ((FOUNDER, LEARNER), HERE._replace(has_data=True, is_labelled=True, answering=(1, 2)), Promote(2)),
        ((FOUNDER, SECOND), HERE._replace(has_data=True, is_labelled=True, answering=(1, 2)), None),
        ((FOUNDER, SECOND), HERE._replace(has_data=True, answering=(1, 2)), Label()),
        # A former member's pod and data are out of the way before another is added.
        ((FOUNDER,), HERE._replace(is_labelled=True, has_pod=True, has_data=True), Unlabel()),
        ((FOUNDER,), HERE._replace(has_data=True), SetAside()),
        # A member whose data are gone never starts again.
        ((FOUNDER, LEARNER), HERE._replace(answering=(1,)), Remove(2, "host-2 has lost its data")),
        # Nor does one that was started without them, which leaves a directory.
        (
            (FOUNDER, SECOND),
            HERE._replace(has_data=True, is_blank=True, is_labelled=True, has_pod=True, answering=(1,)),
            Remove(2, "host-2 has lost its data"),
        ),
        # A learner has not got them yet.
        (
            (FOUNDER, LEARNER),
            HERE._replace(has_data=True, is_blank=True, is_labelled=True, answering=(1,)),
            Wait("its member does not answer yet, so it gets no vote"),
        ),
        # One that ends again and again gets none: its disk was emptied after it had got some.
        (
            (FOUNDER, LEARNER),
            HERE._replace(has_data=True, is_blank=True, keeps_ending=True, is_labelled=True, has_pod=True),
            Remove(2, "host-2 has lost its data"),
        ),
        # If it has something in its log, it ends for another reason.
        (
            (FOUNDER, LEARNER),
            HERE._replace(has_data=True, keeps_ending=True, is_labelled=True, has_pod=True),
            Wait("its member does not answer yet, so it gets no vote"),
        ),
        # A node that was deleted takes its member with it.
        (
            (FOUNDER, SECOND, THIRD),
            HERE._replace(has_data=True, is_labelled=True, answering=(1, 2)),
            Remove(3, "host-3 has no node any more, and does not answer"),
        ),
        # One that has another address, or tells none, is a node still.
        (
            (FOUNDER, SECOND, THIRD),
            HERE._replace(
                has_data=True,
                is_labelled=True,
                answering=(1, 2),
                nodes={"host-1": "10.0.0.1", "host-2": "10.0.0.2", "host-3": ""},
            ),
            None,
        ),
    ],
)
def test_the_next_move_follows_from_what_is_there(members: tuple[Member, ...], place: Place, move: Move) -> None:
    assert joining(members, place) == move


@pytest.mark.parametrize(
    ("members", "place", "problem"),
    [
        ((FOUNDER, ADDED), HERE._replace(is_told=True, is_labelled=True), "has not started yet"),
        ((FOUNDER,), HERE._replace(has_pod=True, has_data=True), "the pod of its former member is still there"),
        ((FOUNDER, SECOND), HERE._replace(has_data=True, is_labelled=True), "its member does not answer"),
        (
            (FOUNDER, LEARNER),
            HERE._replace(host="host-3", address="10.0.0.3"),
            "host-2 joins the swarm's own etcd first",
        ),
        (
            (FOUNDER, SECOND),
            HERE._replace(host="host-3", address="10.0.0.3"),
            "host-2 does not answer, and etcd takes no further member before it does.*k3s kubectl delete node host-2",
        ),
        ((FOUNDER, SECOND), HERE._replace(answering=()), "has lost its data, and cannot be taken out"),
    ],
)
def test_what_has_to_be_waited_for_is_told(members: tuple[Member, ...], place: Place, problem: str) -> None:
    move = joining(members, place)

    assert isinstance(move, Wait)
    assert re.search(problem, move.problem), move


@pytest.mark.parametrize(
    ("members", "answering", "problem"),
    [
        ((FOUNDER,), (1,), "it is the only member of the swarm's own etcd"),
        ((FOUNDER, LEARNER), (1, 2), "it is the only member of the swarm's own etcd"),
        ((FOUNDER, SECOND), (1,), "of the members that would stay, host-2 does not answer, and 1 must"),
        ((FOUNDER, SECOND, THIRD), (1, 2), "of the members that would stay, host-3 does not answer, and 2 must"),
        ((FOUNDER, SECOND), (1, 2), ""),
        ((FOUNDER, SECOND, THIRD), (2, 3), ""),
        ((SECOND, THIRD), (2, 3), ""),
    ],
)
def test_who_leaves_never_costs_the_others_their_quorum(
    members: tuple[Member, ...], answering: tuple[int, ...], problem: str
) -> None:
    founder = HERE._replace(host="host-1", address="10.0.0.1", answering=answering)

    assert leaving_problem(members, founder) == problem


def test_a_learner_may_always_leave() -> None:
    assert not leaving_problem((FOUNDER, ADDED), HERE)
    assert not leaving_problem((FOUNDER, LEARNER), HERE)


def test_replicas_hear_of_members_with_a_vote_alone() -> None:
    assert endpoints((SECOND, FOUNDER)) == ("https://10.0.0.1:12379", "https://10.0.0.2:12379")
    assert endpoints((LEARNER, FOUNDER)) == ("https://10.0.0.1:12379",)


def test_what_so_many_members_mean_is_said() -> None:
    assert "the swarm's data is lost. Join two more hosts" in tolerance(1)
    assert "2 members and tolerates the loss of none, as 1 would; with one more host, of 1." in tolerance(2)
    assert tolerance(3) == "The swarm's own etcd has 3 members and tolerates the loss of 1."
    assert "4 members and tolerates the loss of 1, as 3 would; with one more host, of 2." in tolerance(4)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def founded(world: World, *joined: int) -> dict[int, Server]:
    servers = {1: Server(world, 1)}
    servers[1].found()
    for number in joined:
        servers[number] = Server(world, number)
        servers[number].join()
    return servers


def state(world: World) -> tuple[object, ...]:
    """What must be the same wherever it was killed; ids are not."""
    members = sorted((one.name, one.peers, one.clients, one.is_learner) for one in world.etcd.members.values())
    return members, sorted(world.labelled), world.says(ACCESS)["endpoints"]


def test_each_host_that_joins_becomes_a_member(world: World) -> None:
    servers = founded(world, 2, 3)

    assert [one.name for one in world.etcd.voters()] == ["host-1", "host-2", "host-3"]
    assert world.labelled == {"host-1", "host-2", "host-3"}
    assert world.says(ACCESS)["endpoints"] == ",".join(f"https://10.0.0.{number}:12379" for number in (1, 2, 3))
    assert world.says(ACCESS)["cert"] == world.says(OWN)["cert"]
    assert all(server.has_joined() for server in servers.values())
    servers[2].join()
    servers[1].found()
    assert world.etcd.added == ["https://10.0.0.2:12380", "https://10.0.0.3:12380"]
    assert world.says(OWN)["initial-cluster-state"] == "existing"
    assert not servers[1].former()


def test_a_swarm_without_an_etcd_of_its_own_gets_no_member(world: World) -> None:
    world.objects = {ref: obj for ref, obj in world.objects.items() if ref.namespace != "dragonfly-etcd"}

    assert Server(world, 2).has_joined()
    assert not world.moments


def test_a_learner_that_has_not_caught_up_is_waited_for(world: World) -> None:
    servers = founded(world)
    world.etcd.lagging = 3

    servers[2] = Server(world, 2)
    servers[2].join()

    assert sum("in sync with leader" in said for said in servers[2].said) == 3
    assert [one.name for one in world.etcd.voters()] == ["host-1", "host-2"]


def with_learner(world: World) -> dict[int, Server]:
    """Return a founder, and a second host that was ended before its member has caught up."""
    servers = founded(world)
    world.etcd.lagging = 100
    servers[2] = Server(world, 2)
    servers[2].join(looks=10)
    world.etcd.lagging = 0
    assert [one.is_learner for one in world.etcd.members.values()] == [False, True]
    return servers


def test_a_learner_that_is_down_gets_no_vote_though_it_had_caught_up(world: World) -> None:
    """etcd would give it, and the founder alone would be no quorum any more."""
    servers = with_learner(world)
    world.etcd.down.add("host-2")

    servers[2].join(looks=5)

    assert [one.name for one in world.etcd.voters()] == ["host-1"]
    assert "its member does not answer yet, so it gets no vote" in servers[2].said
    world.etcd.down.discard("host-2")
    servers[2].join()
    assert [one.name for one in world.etcd.voters()] == ["host-1", "host-2"]


def test_a_learner_whose_disk_was_lost_is_made_anew_wherever_that_is_killed(tmp_path: Path) -> None:
    def prepared(world: World) -> dict[int, Server]:
        servers = with_learner(world)
        world.lose_disk("host-2")
        assert "host-2" in world.etcd.ended
        return servers

    assert killed_at_each_moment(tmp_path, prepared, lambda servers: servers[2].join()) > 10


def test_a_member_whose_disk_was_lost_and_that_was_started_since_is_made_anew(world: World) -> None:
    servers = founded(world, 2, 3)
    world.lose_disk("host-2")

    servers[2].join()

    assert world.etcd.added.count("https://10.0.0.2:12380") == 2
    assert sorted(one.name for one in world.etcd.voters()) == ["host-1", "host-2", "host-3"]


def test_replicas_hear_of_nobody_who_has_no_vote_yet_whoever_tells_them(world: World) -> None:
    servers = founded(world)
    world.etcd.lagging = 100
    servers[2] = Server(world, 2)
    servers[2].join(looks=10)
    assert world.labelled == {"host-1", "host-2"}

    servers[1].found()

    assert world.says(ACCESS)["endpoints"] == "https://10.0.0.1:12379"
    assert servers[2].leave() == ""
    assert len(world.etcd.members) == 1


def killed_at_each_moment(
    tmp_path: Path, prepare: Callable[[World], dict[int, Server]], act: Callable[[dict[int, Server]], object]
) -> int:
    """Kill it before and after each effect, and do it again; it must end as if it had not been killed."""
    wanted = World(tmp_path / "wanted")
    act(prepare(wanted))
    for moment in count(1):
        world = World(tmp_path / str(moment))
        servers = prepare(world)
        adds = len(world.etcd.added)
        world.dies_at = world.moments + moment
        try:
            act(servers)
        except Killed:
            act(servers)
            assert state(world) == state(wanted), f"killed at moment {moment}"
            assert len(world.etcd.added) - adds <= 2, "a kill before it was added, and no more"
            assert len(world.etcd.members) == len(wanted.etcd.members)
        else:
            assert state(world) == state(wanted)
            return moment
    raise AssertionError


def test_killed_anywhere_while_it_joins_it_goes_on_and_is_added_once(tmp_path: Path) -> None:
    def joining_third(world: World) -> dict[int, Server]:
        servers = founded(world, 2)
        servers[3] = Server(world, 3)
        return servers

    assert killed_at_each_moment(tmp_path, joining_third, lambda servers: servers[3].join()) > 10


def test_killed_anywhere_while_it_leaves_the_others_go_on_and_so_does_it(tmp_path: Path) -> None:
    moments = killed_at_each_moment(tmp_path, lambda world: founded(world, 2, 3), lambda servers: servers[1].leave())

    assert moments > 6


def test_killed_anywhere_while_it_joins_again_with_what_its_former_member_left(tmp_path: Path) -> None:
    def prepared(world: World) -> dict[int, Server]:
        servers = founded(world, 2, 3)
        servers[2].leave()
        return servers

    assert killed_at_each_moment(tmp_path, prepared, lambda servers: servers[2].join()) > 10


def test_killed_half_way_a_host_that_joined_can_leave_instead(tmp_path: Path) -> None:
    for moment in count(1):
        world = World(tmp_path / str(moment))
        servers = founded(world, 2)
        servers[3] = Server(world, 3)
        before = state(world)
        world.dies_at = world.moments + moment
        try:
            servers[3].join()
        except Killed:
            servers[3].leave()
            assert state(world) == before, f"killed at moment {moment}"
        else:
            break
    assert moment > 10


def test_replicas_hear_of_those_that_stay_before_a_member_is_taken_out(world: World) -> None:
    servers = founded(world, 2, 3)
    for moment in count(1):
        world.dies_at = world.moments + moment
        try:
            servers[2].leave()
        except Killed:
            if len(world.etcd.members) == 2:
                break
    assert world.says(ACCESS)["endpoints"] == "https://10.0.0.1:12379,https://10.0.0.3:12379"


def test_what_a_former_member_left_is_kept_and_said_and_not_used(world: World) -> None:
    servers = founded(world, 2)
    former = world.data("host-2").read_text()
    servers[2].leave()
    assert world.data("host-2").read_text() == former, "leaving deletes nothing"

    servers[2].join()

    assert servers[2].former() == [former]
    assert world.data("host-2").read_text() != former
    assert any("/var/lib/dragonfly-etcd/former-1" in said for said in servers[2].said)
    servers[2].leave()
    servers[2].join()
    assert len(servers[2].former()) == 2


def test_two_hosts_that_join_at_once_do_so_one_after_the_other(world: World) -> None:
    servers = founded(world)
    servers[2], servers[3] = Server(world, 2), Server(world, 3)
    world.dies_at = world.moments + 2  # the second host is a member, and no more
    with pytest.raises(Killed):
        servers[2].join()

    servers[3].join(looks=5)

    (told,) = {said for said in servers[3].said if "first" in said}
    assert told.startswith("https://10.0.0.2:12380 joins the swarm's own etcd first; if that was ended there")
    assert len(world.etcd.members) == 2
    servers[2].join()
    servers[3].join()
    assert [one.name for one in world.etcd.voters()] == ["host-1", "host-2", "host-3"]


def test_the_founder_leaves_two_and_comes_back_as_one_that_joins(world: World) -> None:
    servers = founded(world, 2, 3)

    assert not servers[1].leave()
    assert [one.name for one in world.etcd.voters()] == ["host-2", "host-3"]
    servers[1].join()

    assert len(world.etcd.voters()) == 3
    assert servers[1].former() == ["1"]


def test_one_that_has_other_members_is_not_founded_anew(world: World) -> None:
    """Their certificates are of the authority that there was, and a Secret that is lost says nothing of them."""
    servers = founded(world, 2)
    kept = world.says(AUTHORITY)
    world.put(OWN, {})

    with pytest.raises(StepFailed, match=r"has other members: .*host-2"):
        servers[1].found()

    assert world.says(AUTHORITY) == kept


def test_a_lost_certificate_is_made_anew_by_the_authority_that_there_is(world: World) -> None:
    servers = founded(world)
    kept = world.says(AUTHORITY)
    world.put(OWN, {})

    servers[1].found()

    assert world.says(AUTHORITY) == kept
    assert world.says(OWN)["ca"] == kept["ca"]


def test_an_etcd_that_cannot_be_asked_is_told_as_such_not_as_a_cluster_that_does_not_tell(world: World) -> None:
    servers = founded(world, 2)
    world.put(OWN, {})

    assert "nobody is told yet" in servers[2].hands()[0].leaving_problem("host-2")


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = founded(world)
    servers[2] = Server(world, 2)

    def away(*_: object) -> tuple[str, ...]:
        raise ApiSilent("nodes cannot be listed: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(world, "labelled_names", away)
        own, _ = servers[2].hands()
        assert not own.has_member(JoinEtcd("host-2", "10.0.0.2"))
        said = own.have_member(JoinEtcd("host-2", "10.0.0.2"), servers[2].said.append)

    assert said == "nodes cannot be listed: connection refused"
    servers[2].join()
    assert len(world.etcd.voters()) == 2


@pytest.mark.parametrize(
    ("state", "keeps"),
    [
        ({"waiting": {"reason": "CrashLoopBackOff"}}, True),
        ({"waiting": {"reason": "ImagePullBackOff"}}, False),
        ({"running": {}}, False),
        ({"terminated": {"exitCode": 2}}, False),
        ({}, False),
    ],
)
def test_a_pod_that_ends_again_and_again_is_told_from_one_that_starts(state: dict[str, object], keeps: bool) -> None:
    assert keeps_ending([{"status": {"containerStatuses": [{"state": state}]}}]) is keeps
    assert not keeps_ending([{"status": {}}, {}])


def test_the_last_member_does_not_leave(world: World) -> None:
    servers = founded(world)
    Server(world, 2)

    with pytest.raises(StepFailed, match="only member"):
        servers[1].leave()

    assert world.labelled == {"host-1"}
    assert len(world.etcd.members) == 1


def test_nobody_leaves_one_that_does_not_answer_alone(world: World) -> None:
    servers = founded(world, 2, 3)
    world.etcd.down.add("host-3")

    with pytest.raises(StepFailed, match="host-3 does not answer, and 2 must"):
        servers[2].leave()

    assert "host-3 does not answer" in servers[2].hands()[0].leaving_problem("host-2")
    assert len(world.etcd.members) == 3
    assert "host-2" in world.labelled


def test_a_host_that_is_lost_for_ever_is_replaced_once_its_node_is_deleted(world: World) -> None:
    servers = founded(world, 2, 3)
    world.etcd.down.add("host-1")
    servers[4] = Server(world, 4)
    servers[4].join(looks=5)
    assert any("k3s kubectl delete node host-1" in said for said in servers[4].said)
    assert len(world.etcd.members) == 3

    servers[1].lose_node()
    servers[4].join()

    assert [one.name for one in world.etcd.voters()] == ["host-2", "host-3", "host-4"]
    assert world.says(ACCESS)["endpoints"] == ",".join(f"https://10.0.0.{number}:12379" for number in (2, 3, 4))


def test_a_member_of_a_deleted_node_is_taken_out_when_a_host_that_stays_is_asked_to_install(world: World) -> None:
    servers = founded(world, 2, 3)
    world.etcd.down.add("host-3")
    servers[3].lose_node()

    servers[1].found()

    assert [one.name for one in world.etcd.voters()] == ["host-1", "host-2"]
    assert world.says(ACCESS)["endpoints"] == "https://10.0.0.1:12379,https://10.0.0.2:12379"


def test_a_member_whose_disk_was_lost_is_made_anew(world: World) -> None:
    servers = founded(world, 2, 3)
    world.data("host-2").unlink()

    servers[2].join()

    assert len(world.etcd.voters()) == 3
    assert world.data("host-2").exists()


def test_a_hand_made_etcd_without_the_authoritys_key_is_told_so(world: World) -> None:
    servers = founded(world)
    world.objects.pop(next(ref for ref in world.objects if ref.name == "etcd-authority"))

    servers[2] = Server(world, 2)
    with pytest.raises(StepFailed, match=r"Secret dragonfly-etcd/etcd-authority is not there") as failed:
        servers[2].join()

    assert "by hand" in failed.value.remedy
    assert len(world.etcd.members) == 1, "it would be a learner that keeps others from joining"


def test_a_member_that_is_known_by_name_is_told_before_another_is_added(world: World) -> None:
    servers = founded(world)
    ((member, found),) = world.etcd.members.items()
    world.etcd.members[member] = msgspec.structs.replace(found, peers=("https://etcd-1.example:12380",))

    servers[2] = Server(world, 2)
    with pytest.raises(StepFailed, match=r"known by name: etcd-1\.example; ") as failed:
        servers[2].join()

    assert "etcdctl member update" in failed.value.remedy
    assert len(world.etcd.members) == 1, "it would be a learner that keeps others from joining"


def test_who_leaves_waits_for_an_api_server_that_is_away(world: World) -> None:
    servers = founded(world, 2, 3)

    world.silent = 100
    assert servers[2].leave() == "nodes cannot be read: the API server is busy"
    assert len(world.etcd.voters()) == 3
    world.silent = 1
    said = [servers[2].leave(), servers[2].leave()]

    assert said == ["nodes cannot be read: the API server is busy", ""]
    assert len(world.etcd.voters()) == 2


def test_who_founds_waits_for_an_api_server_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server, silence = Server(world, 1), ApiSilent("Secret dragonfly-etcd/etcd cannot be read: connection refused")
    with monkeypatch.context() as patch:
        patch.setattr(world, "get", Mock(side_effect=silence))
        own, _ = server.hands()
        assert not own.has_member(FoundEtcd("host-1", "10.0.0.1"))
        assert own.have_member(FoundEtcd("host-1", "10.0.0.1"), server.said.append) == str(silence)

    server.found()

    assert world.labelled == {"host-1"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unreachable("refused", maybe_done=False), ApiSilent),
        (Throttled("too many requests", retry_after=1.0, status=429), ApiSilent),
        (ServerFailed("etcdserver: no leader", maybe_done=True, status=500), ApiSilent),
        (Forbidden("nodes is forbidden", status=403), StepFailed),
    ],
)
def test_an_api_server_that_cannot_just_now_is_told_from_one_that_will_not(error: KubeError, kind: type) -> None:
    assert type(failed("nodes cannot be read", error)) is kind


def test_an_etcd_that_does_not_answer_is_waited_for_and_told(world: World) -> None:
    servers = founded(world)
    world.etcd.down.add("host-1")
    servers[2] = Server(world, 2)

    with pytest.raises(StepFailed):
        servers[2].has_joined()
    own, _ = servers[2].hands()

    assert "does not do it now" in own.leaving_problem("host-1")
    assert not own.leaving_problem("host-2"), "it has none, as far as its node says"
    assert not own.leave("host-2", lambda _: None)
    assert "does not do it now" in own.leave("host-1", lambda _: None)

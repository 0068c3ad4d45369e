"""What a host takes back follows from who carries its cluster: only the last server takes away what is in it."""

from dragonfly.install.carriers import Carriers, fitting
from dragonfly.install.steps import DeleteObjects, Gone, LeaveCluster, LeaveEtcd, RemoveTree, StopService, Undo

ALONE = Carriers("host-1")
CARRIED = Carriers("host-1", ("host-2",))
UNKNOWN = Carriers("host-1", problem="nodes cannot be listed: refused")

REPLICAS = DeleteObjects((Gone("apps/v1", "Deployment", "dragonfly", "dragonfly"),))
KEY = DeleteObjects((Gone("v1", "Secret", "dragonfly", "dragonfly"),), is_data=True)
STOP: tuple[Undo, ...] = (StopService("k3s.service"), RemoveTree("/run/k3s"))
DATA = RemoveTree("/var/lib/rancher", is_data=True)


def test_the_founder_of_a_cluster_that_others_carry_leaves_it_as_one_that_had_joined() -> None:
    for delete_data in (False, True):
        assert fitting((REPLICAS,), CARRIED, delete_data=delete_data) == ()
        assert fitting((KEY,), CARRIED, delete_data=delete_data) == ()
        assert fitting(STOP, CARRIED, delete_data=delete_data) == (LeaveCluster("host-1"), *STOP)
        assert fitting((DATA,), CARRIED, delete_data=delete_data) == (DATA,)


def test_one_that_had_joined_leaves_once() -> None:
    undos = (LeaveCluster("host-1"), *STOP)

    assert fitting(undos, CARRIED, delete_data=False) == undos


def test_the_last_server_takes_everything_off_and_stays_a_node_for_its_data() -> None:
    for undos in ((REPLICAS,), (KEY,), STOP, (DATA,)):
        assert fitting(undos, ALONE, delete_data=True) == undos
    assert fitting((LeaveCluster("host-1"), *STOP), ALONE, delete_data=False) == STOP


def test_what_is_in_a_cluster_that_does_not_answer_is_left_alone() -> None:
    assert fitting((REPLICAS,), UNKNOWN, delete_data=True) == ()
    assert fitting((KEY,), UNKNOWN, delete_data=True) == ()
    assert fitting((KEY,), UNKNOWN, delete_data=False) == (KEY,)
    assert fitting((LeaveCluster("host-1"), *STOP), UNKNOWN, delete_data=True) == (LeaveCluster("host-1"), *STOP)


def test_the_swarms_own_etcd_is_not_left_where_it_cannot_go_on() -> None:
    problem = "it is the only member of the swarm's own etcd"
    assert Carriers("host-1", ("host-2",), members=("host-1",), etcd_problem=problem).loses_swarm
    assert not Carriers("host-1", ("host-2",), members=("host-1", "host-2")).loses_swarm
    assert not CARRIED.loses_swarm


def test_a_member_of_the_swarms_own_etcd_is_taken_out_before_the_node_and_never_the_last_one() -> None:
    carried = Carriers("host-1", ("host-2",), members=("host-1", "host-2"))
    for undos in (STOP, (LeaveCluster("host-1"), *STOP)):
        assert fitting(undos, carried, delete_data=True) == (LeaveEtcd("host-1"), LeaveCluster("host-1"), *STOP)
    assert carried.members_left == 1
    assert fitting(STOP, Carriers("host-1", members=("host-1",)), delete_data=True) == STOP

"""Guards of the product taken out, one at a time: the checker must see what they are there for."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.simulation import mutated_actions as actions
from tests.simulation import mutated_beliefs as beliefs
from tests.simulation.faults import Profile
from tests.simulation.users import Wishes
from tests.simulation.wire import Chances

STOPPED = Profile("stopped", Chances(paused=0.12), ("pause", "kill"), 3)
SLOW = Profile("slow", Chances(waits=0.2), ("cut etcd", "cut etcd", "pause"), 6)
KILLED = Profile("killed", Chances(killed=0.06), ("kill", "stop"), 3)
LATE = Profile("late", Chances(late=0.08, slow=0.05), ("kill", "pause"), 2, Wishes(cancels=0.8))
BLIND = Profile("blind", Chances(paused=0.1), ("pause",), 6, Wishes(repeats=1.0, edits=1.0), blinded=1.0)
HANDS = Profile("hands", Chances(), ("delete workflow",), 3, Wishes(cancels=0.2, locks=0.0), odd=0.0)
LOCKS = Profile("locks", Chances(slow=0.1), ("stall etcd",), 4, Wishes(locks=1.0))
AGAIN = Profile(
    "again", Chances(waits=0.4, slow=0.1), ("stall etcd", "stall etcd"), 6, Wishes(locks=1.0, powers=1.0), powered=1.0
)
CALM = Profile("calm", Chances(), (), 0, Wishes(locks=0.0))
REPEATS = Profile("repeats", Chances(), (), 0, Wishes(cancels=1.0, locks=0.0, repeats=1.0), odd=0.0)
LOST = Profile("lost", Chances(lost=0.1), (), 0)
GONE = Profile(
    "gone",
    Chances(killed=0.1, slow=0.1),
    ("stall kube", "kill"),
    9,
    Wishes(cancels=1.0, locks=0.0, repeats=0.0, deletes=1.0),
    odd=0.0,
    most_machines=3,
    powered=1.0,
)
HANDED = Profile("handed", Chances(slow=0.3), ("stop", "kill"), 8, Wishes(repeats=1.0, edits=1.0))
POWER = Profile("power", Chances(slow=0.05), ("delete job",), 9, Wishes(locks=0.0, powers=1.0), odd=0.0, powered=1.0)
BUSY = Profile(
    "busy", Chances(slow=0.05), (), 0, Wishes(cancels=0.0, locks=0.0, repeats=1.0, powers=1.0), odd=0.0, powered=1.0
)
UNANSWERED = Profile("unanswered", Chances(unanswered=0.2), (), 0, Wishes(powers=1.0), powered=1.0)
OVERTAKEN = Profile(
    "overtaken",
    Chances(slow=0.05),
    ("overtaken",),
    6,
    Wishes(edits=1.0, repeats=1.0, locks=0.0, deletes=0.0),
    has_policy=True,
    most_machines=3,
)
RESTORED = Profile(
    "restored",
    Chances(slow=0.02),
    ("restore kube", "restore kube", "kill"),
    6,
    Wishes(cancels=0.2, locks=0.0, repeats=1.0, deletes=0.0),
    odd=0.0,
)
STALE = RESTORED._replace(
    name="stale", timed=("restore kube", "stall kube", "stall kube"), wishes=Wishes(cancels=0.5, edits=1.0, repeats=1.0)
)
ASLEEP = RESTORED._replace(name="asleep", timed=("restore kube", "pause", "pause"))
DELETED = RESTORED._replace(name="deleted", wishes=Wishes(cancels=0.0, locks=0.0, repeats=0.0, deletes=1.0))
SWITCHED = RESTORED._replace(name="switched", wishes=Wishes(locks=0.0, powers=1.0), powered=1.0)
WATCHES = Profile("watches", Chances(), ("break watches", "compact etcd"), 4)


class Mutation(NamedTuple):
    """A guard taken out."""

    name: str
    promises: tuple[str, ...]
    """What may be broken by it; the first thing found counts."""
    profile: Profile
    """A shape of history that needs the guard often."""
    apply: Callable[[pytest.MonkeyPatch], None]
    is_rare: bool = False
    """It takes more than a hundred histories until it is missed."""


MUTATIONS = (
    Mutation("a commit does not compare the claim", ("P4",), STOPPED, actions.commit_without_claim),
    Mutation("a commit does not compare the object", ("P1", "P3", "P5"), STOPPED, actions.commit_whatever_is_there),
    Mutation(
        "a Kubernetes write carries no resourceVersion", ("P4", "P1", "P7"), STOPPED, actions.write_without_version
    ),
    Mutation("an apply to where nothing was takes what is there", ("P4",), STOPPED, actions.apply_over_what_is_there),
    Mutation("a patch says nothing of its epoch", ("P4",), STOPPED, actions.patch_without_epoch),
    Mutation("nothing compares, and no policy", ("P4",), OVERTAKEN, actions.compare_nothing_without_policy),
    Mutation("the policy lets a lower epoch pass", ("P4",), OVERTAKEN, actions.admit_lower_epochs),
    Mutation("a higher epoch is replaced without etcd's word", ("P4",), OVERTAKEN, actions.replace_without_asking),
    Mutation("arming is not recorded first", ("P1",), CALM, actions.arm_without_record),
    Mutation("arming does not compare the machine", ("P3",), LOCKS, actions.arm_without_second_look),
    Mutation("arming goes by an old record", ("P3",), AGAIN, actions.believe_an_old_record),
    Mutation("arming of a Job goes by an old record", ("P3",), AGAIN, actions.believe_an_old_record_of_a_job),
    Mutation("who owns a shard is computed, not recorded", ("P10", "P4"), KILLED, beliefs.compute_claims),
    Mutation("a write waits for its turn beyond the lease", ("P10",), SLOW, actions.send_however_late),
    Mutation("a write is not looked at again when it is sent", ("P10", "P3"), SLOW, actions.look_before_waiting_only),
    Mutation("the lease's clock is ignored", ("P10",), STOPPED, beliefs.ignore_lease_clock),
    Mutation("a new lease vouches for old claims", ("P10",), BLIND, beliefs.new_lease_vouches),
    Mutation("the watch is resumed one revision too late", ("P9",), WATCHES, beliefs.resume_too_late),
    Mutation("the watch is resumed after what it knows", ("P9",), WATCHES, beliefs.resume_after_what_is_known),
    Mutation("the mirror takes old changes again", ("P9",), WATCHES, beliefs.take_twice),
    Mutation("a Workflow is created again after arming", ("P1",), HANDS, actions.create_again),
    Mutation("a Job is created again after arming", ("P1",), POWER, actions.create_job_again),
    Mutation("arming of a Job is not recorded first", ("P1",), POWER, actions.arm_job_without_record),
    Mutation("a retry under one key is another power action", ("P1",), UNANSWERED, actions.forget_what_was_asked),
    Mutation("a BMC acts in the middle of an installation", ("P7",), BUSY, actions.power_in_an_installation),
    Mutation("a served Workflow is removed", ("P7",), REPEATS, actions.remove_what_is_served),
    Mutation("a result can be changed", ("P1",), REPEATS, actions.result_is_no_latch),
    Mutation("whatever came out counts as installed", ("P2",), REPEATS, actions.installed_whatever_came_out),
    Mutation("what was armed before a restore is armed again", ("P1",), RESTORED, beliefs.see_nothing_rewound),
    Mutation(
        "a Job that was armed before a restore is armed again",
        ("P1",),
        SWITCHED,
        beliefs.see_no_job_rewound,
        is_rare=True,
    ),
    Mutation("what has ended runs again after a restore", ("P1", "P2"), RESTORED, beliefs.stop_nothing_of_the_past),
    Mutation(
        "a watch goes on in another history", ("P1", "P2", "P5", "P7"), RESTORED, beliefs.go_on_in_another_history
    ),
    Mutation(
        "an answer of another history counts", ("P1", "P2", "P5", "P7"), STALE, beliefs.take_what_was_observed_for_newer
    ),
    Mutation(
        "a stopped replica's watch goes on after a restore", ("P1", "P2", "P5", "P7"), ASLEEP, beliefs.doubt_nothing
    ),
    Mutation("a deleted machine runs after a restore", ("P1",), DELETED, beliefs.look_at_nothing_of_the_gone),
    Mutation("what has ended is in the way after a restore", ("P7",), RESTORED, beliefs.past_is_in_the_way),
    Mutation("netboot is not closed", ("P2",), CALM, actions.leave_netboot_open),
    Mutation("a machine is deleted by what the copies show", ("P2",), GONE, beliefs.believe_the_copies),
    Mutation("a shard is released in the middle of work", ("P10", "P4"), HANDED, beliefs.release_at_once),
    Mutation("nothing is swept", ("P1",), LATE, actions.sweep_nothing, is_rare=True),
    Mutation("no answer counts as a yes", ("P5",), LOST, actions.no_answer_is_a_yes),
    Mutation("changes wake nobody", ("P5",), CALM, beliefs.begin_nothing),
    Mutation("a locked machine is provisioned", ("P3",), LOCKS, actions.accept_for_locked),
    Mutation("a provision fails with its owner", ("P7",), KILLED, actions.fail_with_the_owner),
    Mutation("an unowned shard waits for somebody better", ("P6",), KILLED, beliefs.leave_it_to_the_best),
    Mutation("no site is preferred", ("P6",), CALM, beliefs.prefer_no_site),
    Mutation("an unowned shard is not shown", ("P6",), CALM, beliefs.hide_unowned),
)

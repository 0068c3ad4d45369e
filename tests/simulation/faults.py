"""What goes wrong in a history: drawn once from its seed, some of it at set times, some of it at any request."""

from random import Random
from typing import NamedTuple

from tests.simulation.users import Wishes
from tests.simulation.wire import Chances

TIMED = (
    "kill",
    "pause",
    "stop",
    "cut etcd",
    "cut kube",
    "stall etcd",
    "stall kube",
    "no quorum",
    "lagging member",
    "compact etcd",
    "forget kube",
    "end watches",
    "break watches",
    "slow kube",
    "jump clock",
    "delete workflow",
    "tinkerbell away",
    "delete job",
    "overtaken",
    "restore kube",
)
"""Faults that begin at a time of their own."""


class Fault(NamedTuple):
    """One timed fault; `size` in [0, 1) scales it."""

    at: float
    kind: str
    size: float


class Profile(NamedTuple):
    """The shape of one history."""

    name: str
    chances: Chances
    timed: tuple[str, ...]
    """Kinds of timed faults to draw from."""
    most: int
    """How many timed faults at most."""
    wishes: Wishes = Wishes()
    has_policy: bool = False
    """Whether the cluster certainly has Dragonfly's admission policy; half of the others have it, too."""
    most_machines: int = 2
    most_replicas: int = 3
    odd: float = 0.3
    """How likely a machine is to misbehave."""
    powered: float = 0.3
    """How likely a machine is to have a BMC."""
    blinded: float = 0.1
    """How likely a process that was stopped has lost its watch of etcd and notices late."""


_ALWAYS = Chances(slow=0.01)

PROFILES = (
    Profile("calm", Chances(), (), 0),
    Profile("network", Chances(lost=0.01, unanswered=0.02, refused=0.01, late=0.02, slow=0.03), TIMED[3:6], 2),
    Profile("servers", Chances(busy=0.03, failing=0.04, slow=0.02, waits=0.05), TIMED[6:14], 4),
    Profile("crashes", Chances(killed=0.03, slow=0.01), ("kill", "stop"), 3),
    Profile("pauses", Chances(paused=0.04, slow=0.01), ("pause",), 3),
    Profile("blind", Chances(paused=0.03, slow=0.01, waits=0.03), ("pause", "stall etcd", "stall kube"), 5),
    Profile("slow", Chances(slow=0.05, waits=0.1), ("cut etcd", "pause", "slow kube"), 4),
    Profile("people", _ALWAYS, ("delete workflow", "delete job", "kill"), 4, Wishes(0.6, 0.6, 0.4, 0.7, 0.3)),
    Profile("clocks", _ALWAYS, ("jump clock", "pause", "kill"), 4),
    Profile(
        "everything",
        Chances(0.005, 0.01, 0.005, 0.01, 0.01, 0.005, 0.01, 0.01, 0.01, 0.01),
        TIMED,
        6,
        Wishes(0.4, 0.3, 0.3, 0.5, 0.2),
        most_machines=3,
    ),
    Profile(
        "late",
        Chances(unanswered=0.01, late=0.03, slow=0.02, killed=0.01, paused=0.03),
        ("pause", "kill", "cut etcd"),
        3,
    ),
    Profile(
        "overtaken",
        Chances(slow=0.01),
        ("overtaken", "overtaken", "kill", "pause"),
        5,
        Wishes(edits=0.6, repeats=0.6),
        has_policy=True,
    ),
    Profile(
        "restored",
        Chances(slow=0.01, killed=0.005, paused=0.01),
        ("restore kube", "restore kube", "restore kube", "kill", "pause", "cut kube", "stall kube", "tinkerbell away"),
        5,
        Wishes(cancels=0.2, locks=0.1, repeats=0.6),
        powered=0.5,
    ),
)


def drawn_profile(random: Random) -> Profile:
    """Draw the shape of a history, and whether its cluster lets Dragonfly install its admission policy."""
    profile = random.choice(PROFILES)
    return profile._replace(has_policy=profile.has_policy or random.random() < 0.5)


def drawn_faults(random: Random, profile: Profile, until: float) -> list[Fault]:
    count = random.randint(0, profile.most) if profile.timed else 0
    return sorted(
        Fault(until * random.random() ** 1.5, random.choice(profile.timed), random.random()) for _ in range(count)
    )

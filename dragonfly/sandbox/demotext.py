"""What the demo prints when it runs: where everything is, what to try, and what to expect. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dragonfly.sandbox.fate import Behaviour, first_trouble
from dragonfly.sandbox.inventory import mac, machines, templates

_MOST_NAMED: Final = 6


class Told(NamedTuple):
    """What there is to tell of a running demo."""

    url: str
    token: str
    token_file: str
    demo_file: str
    tink_server: str
    program: str
    """What to type for `dragonfly`."""
    is_elsewhere: bool
    """The commands do not find it by themselves."""
    machines: int
    replica: str
    replica_pid: int
    restart: bool
    behaviour: Behaviour | None
    """Of the simulated machines; None if there are none."""


def text(told: Told) -> str:
    """Return the whole text."""
    first = next((machine["metadata"]["name"] for machine in machines(told.machines)), "MACHINE")
    export = (
        f"    export DRAGONFLY_SERVER={told.url} DRAGONFLY_TOKEN_FILE={told.token_file}\n" if told.is_elsewhere else ""
    )
    return f"""
Dragonfly runs at  {told.url}
Token              {told.token}
                   (also in {told.token_file})
Everything else    {told.demo_file}
{"" if told.behaviour else f"Machines' agents   connect to {told.tink_server}, and are yours to start" + chr(10)}
Try, in another terminal:

{export}    {told.program} provision {first} ubuntu-2404 --wait
    {told.program} get machines -w
    kill -9 {told.replica_pid}    # replica {told.replica}; the others go on with its work

{_after_the_kill(told)}
{_failures(told)}
Ctrl-C stops everything.
"""


def doomed(behaviour: Behaviour, count: int) -> Iterator[str]:
    """Yield the machines whose first installation fails, with whichever of the templates."""
    names = {tuple(action["name"] for action in template["spec"]["actions"]) for template in templates()}
    for number, machine in enumerate(machines(count)):
        if any(first_trouble(behaviour, mac(number), actions) for actions in names):
            yield machine["metadata"]["name"]


def _after_the_kill(told: Told) -> str:
    loop = f"    while sleep 0.5; do {told.program} swarm; done"
    if told.restart:
        return (
            "A killed replica is started again within 3 s (not with --no-restart). To watch its shards move:\n\n"
            f"{loop}\n"
        )
    return f"A killed replica stays dead (--no-restart). To watch its shards move:\n\n{loop}\n"


def _failures(told: Told) -> str:
    if told.behaviour is None or told.behaviour.fail_rate == 0:
        return ""
    names = list(doomed(told.behaviour, told.machines))
    rate = f"Of the simulated machines' actions {told.behaviour.fail_rate:.0%} fail on purpose (--fail-rate, --seed)"
    return f"{rate}: {_which(names)}.\n"


def _which(names: Sequence[str]) -> str:
    if not names:
        return "with this seed, on no machine's first installation"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"the first installation of {', '.join(names[:_MOST_NAMED])}{more}"

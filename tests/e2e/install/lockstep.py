"""The command line, a moment at a time: at each it says where it is, and waits until it is told to go on.

    python -m tests.e2e.install.lockstep install --yes -o json ...

The moments of a step are `begun`, when the journal knows how to take it back and nothing is touched yet, `told 1`,
`told 2`, when it said that so much of it is done, and `carried out`, when all is done and the journal does not know.
Those of an uninstallation are `taken back`, of each part of it.
Whoever kills it at one knows what had happened: nothing goes on while it waits, and it ends when nobody is there.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from dragonfly.cli.main import run
from dragonfly.install.hands import RealHands
from dragonfly.install.journal import Journal
from dragonfly.install.steps import AwaitNode, AwaitReplicas, SelfTest

_WAITS: Final = (AwaitNode, AwaitReplicas, SelfTest)
"""What they say is what is still missing."""
_TOLD: Final = 3


def moment(name: str, about: str) -> None:
    """Say it, and wait for a line. `about`: the step, unless it is the one that was told of last."""
    sys.stdout.write(json.dumps({"event": "moment", "moment": name, "step": about}) + "\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        sys.exit("nobody says how to go on")


def main() -> int:
    begun, carry_out, take_back = Journal.begun, RealHands.carry_out, RealHands.take_back

    def begin(journal: Journal, step: str, *rest: Any) -> None:
        begun(journal, step, *rest)
        moment("begun", step)

    def carry(hands: RealHands, action: Any, say: Callable[[str], None]) -> str:
        numbers = itertools.count(1)

        def tell(text: str) -> None:
            say(text)
            if not isinstance(action, _WAITS) and (number := next(numbers)) <= _TOLD:
                moment(f"told {number}", "")

        proof = carry_out(hands, action, tell)
        moment("carried out", "")
        return proof

    def take(hands: RealHands, undo: Any, say: Callable[[str], None]) -> str:
        remark = take_back(hands, undo, say)
        moment("taken back", str(undo))
        return remark

    for owner, name, function in (
        (Journal, "begun", begin),
        (RealHands, "carry_out", carry),
        (RealHands, "take_back", take),
    ):
        setattr(owner, name, function)
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

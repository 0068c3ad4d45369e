"""How far the installation on this computer is, by what its journal has, and what can be done next. Pure."""

from typing import Literal, NamedTuple, TypeAlias

State: TypeAlias = Literal["unrecorded", "unreadable", "working", "begun", "installed", "leaving", "kept"]

JOINED = "joined"
"""What the journal has for an address where the host is one more server of a cluster."""


class Stage(NamedTuple):
    """What is so by the journal."""

    state: State
    """`begun` and `leaving` have stopped: nothing works on them now. `kept`: taken off, but for the data."""
    step: str = ""
    """The one at which it stopped, or is; empty if none has begun."""
    address: str = ""
    """Where the swarm answers; empty unless `installed`."""
    upgrades: bool = False
    """`installed`, and an upgrade has begun and not ended."""
    reason: str = ""
    """Why it is `unreadable`."""

    @property
    def is_half(self) -> bool:
        """Whether something was begun that waits for somebody to go on."""
        return self.state in {"begun", "leaving"} or (self.state == "installed" and (self.upgrades or bool(self.step)))


def in_words(stage: Stage) -> str:
    """Return what is so, without a full stop."""
    at = f" at step {stage.step}" if stage.step else " before its first step"
    match stage.state:
        case "unrecorded":
            return "no installation is recorded"
        case "unreadable":
            return stage.reason
        case "working":
            return f"dragonfly is at work on it now{at if stage.step else ''}"
        case "begun":
            return f"an installation has begun and stopped{at}"
        case "leaving":
            return f"an installation was being taken off, and that stopped{at}"
        case "kept":
            return "an installation was taken off, and its data is still here"
        case "installed":
            return _installed(stage, at)


def _installed(stage: Stage, at: str) -> str:
    where = "as one more server of a cluster" if stage.address == JOINED else f"answers at {stage.address}"
    if not stage.is_half:
        return f"installed; {where}"
    what = "an upgrade" if stage.upgrades else "a change"
    return f"installed; {where}; {what} has begun and stopped{at if stage.step else ''}"


def next_steps(stage: Stage) -> str:
    """Return what to do; empty where nothing is."""
    match stage.state:
        case "unrecorded":
            return (
                "To install here: dragonfly install. If that directory is a leftover, remove it; for a cluster "
                "elsewhere, set KUBECONFIG."
            )
        case "unreadable":
            return "Look as root: sudo dragonfly status --local"
        case "begun":
            return "Go on with it: dragonfly install. Or take it back: dragonfly uninstall."
        case "leaving":
            return "Go on with that: dragonfly uninstall. Or install again: dragonfly install."
        case "kept":
            return "Install again with that data: dragonfly install. Or delete it: dragonfly uninstall --delete-data."
        case "installed" if stage.is_half:
            command = "upgrade" if stage.upgrades else "install"
            return f"Go on with it: dragonfly {command}. Or take everything back: dragonfly uninstall."
        case _:
            return ""

"""The entry point `dragonfly`: finds the command, and turns whatever goes wrong into a sentence and an exit code."""

import os
import sys
from collections.abc import Sequence

import click

from dragonfly import __version__
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.topics import Entry, TopicGroup

_HERE = "dragonfly.cli"


class Dragonfly(TopicGroup):
    topics = {
        "Machines": {
            "get": Entry(f"{_HERE}.get", "get", "List machines, templates, clusters and more, or show some"),
            "events": Entry(f"{_HERE}.events", "events", "Print what changes, as it happens"),
            "describe": Entry(f"{_HERE}.describe", "describe", "Tell everything about one of them"),
            "provision": Entry(f"{_HERE}.provision", "provision", "Install a template on machines"),
            "cancel": Entry(f"{_HERE}.changes", "cancel", "Stop a provision"),
            "power": Entry(f"{_HERE}.power", "power", "Switch a machine on or off, or restart it"),
            "move": Entry(f"{_HERE}.move", "move", "Move machines to another cluster; installs nothing"),
            "lock": Entry(f"{_HERE}.changes", "lock", "Let nobody touch a machine"),
            "unlock": Entry(f"{_HERE}.changes", "unlock", "End a lock"),
            "apply": Entry(f"{_HERE}.apply", "apply", "Create or change what files describe"),
            "delete": Entry(f"{_HERE}.changes", "delete", "Remove machines, templates or webhooks"),
            "webhook": Entry(f"{_HERE}.webhook", "webhook", "Try a webhook, or what it could not deliver"),
        },
        "Swarm": {
            "status": Entry(f"{_HERE}.swarm", "status", "Tell whether the swarm is well"),
            "swarm": Entry(f"{_HERE}.swarm", "swarm", "List replicas and what each of them drives"),
            "cluster": Entry(f"{_HERE}.cluster", "cluster", "Register a Kubernetes cluster, check it, take it out"),
            "server": Entry(f"{_HERE}.server", "server", "Run one replica"),
            "demo": Entry(f"{_HERE}.demo", "demo", "Run a whole swarm on this computer, touching no hardware"),
        },
        "This host": {
            "install": Entry(
                f"{_HERE}.install", "install_command", "Make this host a server, with all that a swarm needs"
            ),
            "bundle": Entry(f"{_HERE}.bundle", "bundle_command", "Fetch all that hosts without internet need"),
            "upgrade": Entry(f"{_HERE}.upgrade", "upgrade_command", "Bring what is installed here to this version"),
            "uninstall": Entry(f"{_HERE}.uninstall", "uninstall_command", "Take back what was installed here"),
        },
        "Shell": {
            "completion": Entry(f"{_HERE}.completion", "completion", "Print completion for bash, zsh or fish"),
        },
    }


@click.command(
    cls=Dragonfly,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done, 1 bad result, 2 usage, 3 not found, 4 refused, 5 unreachable, 6 still running, "
    "130 interrupted.",
)
@click.version_option(__version__, "--version", message="dragonfly %(version)s")
def cli() -> None:
    """Provision bare metal through Tinkerbell and Kubernetes, with a swarm of equal replicas."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: without the program's name; those of the process when left out.
    """
    try:
        result = cli.main(args=arguments, prog_name="dragonfly", standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        return _fail(error.message, error.exit_code, error.advice)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", Exit.INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return Exit.OK
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "dragonfly"
        return _fail(_lowered(error.format_message()), Exit.USAGE, f"See {command} --help.")
    except click.ClickException as error:
        return _fail(_lowered(error.format_message()), Exit.USAGE)
    except BrokenPipeError:
        return _reader_left()
    return result if isinstance(result, int) else Exit.OK


def _fail(message: str, code: Exit, advice: str = "") -> int:
    print(f"dragonfly: {message}", file=sys.stderr)
    if advice:
        print(advice, file=sys.stderr)
    return code


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


def _reader_left() -> int:
    """End quietly when the reader of a pipe has seen enough, as `head` does; Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK

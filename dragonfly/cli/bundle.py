"""`dragonfly bundle`: all that an installation needs, in a directory for hosts without internet."""

import os
import platform
from pathlib import Path
from typing import Final

import click

from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.session import console
from dragonfly.install.bundle import Wanted, make
from dragonfly.install.execution import StepFailed, Unreachable
from dragonfly.install.options import K3S_VERSION, TINKERBELL_VERSION, BadOptions, Options, checked
from dragonfly.install.preflight import ARCHITECTURES
from dragonfly.install.registry import Registry

_OFFLINE: Final = "A bundle is made where there is internet, and then brought to the hosts. Said again, it begins anew."


@click.command(name="bundle")
@click.argument("directory", metavar="DIR")
@click.option("--image-archive", metavar="FILE", required=True, help="Of a replica, as `make image` makes it.")
@click.option("--arch", type=click.Choice(list(ARCHITECTURES.values())), default=None,
              help="Of the hosts that it is for; this computer's own unless said.")  # fmt: skip
@click.option("--k3s-version", default=K3S_VERSION, show_default=True)
@click.option("--tinkerbell-version", default=TINKERBELL_VERSION, show_default=True)
def bundle_command(
    directory: str, *, image_archive: str, arch: str | None, k3s_version: str, tinkerbell_version: str
) -> int:
    """Fetch k3s, Tinkerbell and their images into DIR, for `dragonfly install --airgap DIR` elsewhere."""
    try:
        checked(Options(k3s_version=k3s_version, tinkerbell_version=tinkerbell_version))
    except BadOptions as error:
        raise CliError("these options make no sense:\n  " + "\n  ".join(error.problems), Exit.USAGE) from error
    if not os.access(image_archive, os.R_OK) or Path(image_archive).is_dir():
        raise CliError(
            f"--image-archive: {image_archive} cannot be read; nothing was fetched",
            Exit.USAGE,
            "Name the file that `make image` made.",
        )
    architecture = arch or _own_architecture()
    wanted = Wanted(architecture, k3s_version, tinkerbell_version, image_archive)
    err = console(stderr=True)
    try:
        make(Path(directory), wanted, Registry(), lambda text: err.print(text, soft_wrap=True))
    except Unreachable as error:
        raise CliError(f"the bundle is not whole: {error}", Exit.UNREACHABLE, _OFFLINE) from error
    except StepFailed as error:
        raise CliError(f"the bundle is not whole: {error}", Exit.UNREACHABLE, error.remedy) from error
    except OSError as error:
        place = error.filename or directory
        raise CliError(f"{place} cannot be written: {error.strerror or error}", Exit.USAGE) from error
    console().print(f"{directory} has all that an installation on {architecture} needs.", soft_wrap=True)
    return Exit.OK


def _own_architecture() -> str:
    machine = platform.machine()
    # macOS says arm64 itself.
    found = ARCHITECTURES.get(machine, machine)
    if found not in ARCHITECTURES.values():
        raise CliError(
            f"hosts are never like this computer ({machine}); nothing was fetched",
            Exit.USAGE,
            f"Say what they are: --arch {' or --arch '.join(ARCHITECTURES.values())}.",
        )
    return found

"""`python -m dragonfly.sandbox`: what the Makefile and scripts need of the sandbox."""

import asyncio
import contextlib
import signal
from pathlib import Path

import click
from rich.console import Console

from dragonfly.sandbox import apt, toolchain
from dragonfly.sandbox.agents import run_agents
from dragonfly.sandbox.cache import DamagedCache
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.inventory import mac
from dragonfly.sandbox.progress import Shown


@click.group()
def main() -> None:
    """The sandbox: real etcd, kube-apiserver and Tinkerbell on this computer."""


@main.command()
@click.argument("names", nargs=-1, type=click.Choice([*toolchain.NAMES, "haproxy"]))
def ensure(names: tuple[str, ...]) -> None:
    """Find or build the programs that the sandbox runs; all of them without NAMES."""
    progress = Shown(Console(stderr=True))
    wanted = names or (*toolchain.NAMES, "haproxy")
    try:
        found = toolchain.ensure([name for name in wanted if name in toolchain.NAMES], progress)
        if "haproxy" in wanted:
            found["haproxy"] = apt.program("haproxy", progress)
    except (toolchain.ToolMissing, DamagedCache) as error:
        raise click.ClickException(str(error)) from error
    for name, path in found.items():
        click.echo(f"{name}\t{path}")


@main.command()
def path() -> None:
    """Print the directory in the cache where built programs of the pinned versions are kept."""
    click.echo(toolchain.built().directory)


@main.command()
@click.option("--server", required=True, help="tink-server, host:port.")
@click.option("--count", type=click.IntRange(min=1), help="Play this many machines, with the MACs of the demo.")
@click.option("--ids-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A MAC on each line.")
@click.option("--seed", default=0, show_default=True, help="Decides durations and failures.")
@click.option("--fail-rate", default=0.0, show_default=True, help="Share of actions that fail.")
@click.option("--timeout-rate", default=0.0, show_default=True, help="Share of actions that time out.")
@click.option("--silence-rate", default=0.0, show_default=True, help="Share of actions that are never heard of again.")
@click.option("--silence", type=float, help="Seconds until a silent machine is rebooted; never, without it.")
@click.option(
    "--seconds", nargs=2, default=(0.2, 1.0), show_default=True, help="Shortest and longest work of an action."
)
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path), help="Append what happens, as JSON lines.")
def agents(
    *,
    server: str,
    count: int | None,
    ids_file: Path | None,
    seed: int,
    fail_rate: float,
    timeout_rate: float,
    silence_rate: float,
    silence: float | None,
    seconds: tuple[float, float],
    trace: Path | None,
) -> None:
    """Play simulated machines against a tink-server until stopped."""
    if (count is None) == (ids_file is None):
        raise click.UsageError("Give either --count or --ids-file.")
    identities = ids_file.read_text().split() if ids_file else [mac(number) for number in range(count or 0)]
    try:
        behaviour = Behaviour(seed, fail_rate, timeout_rate, silence_rate, *seconds, silence)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    asyncio.run(_until_told(server, identities, behaviour, trace))


async def _until_told(server: str, identities: list[str], behaviour: Behaviour, trace: Path | None) -> None:
    """Run until SIGTERM or SIGINT."""
    playing = asyncio.create_task(run_agents(server, identities, behaviour, trace=trace))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await playing


if __name__ == "__main__":
    main(prog_name="python -m dragonfly.sandbox")

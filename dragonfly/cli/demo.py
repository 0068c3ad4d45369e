"""`dragonfly demo`: a whole swarm on this computer."""

from importlib.util import find_spec
from pathlib import Path

import click

from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.session import console


@click.command
@click.option("--machines", type=click.IntRange(0, 10_000), default=24, show_default=True, help="Simulated machines.")
@click.option("--replicas", type=click.IntRange(1, 9), default=3, show_default=True, help="Replicas of Dragonfly.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides how long actions take and which fail.")
@click.option(
    "--fail-rate", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Share of actions that fail."
)
# No DRAGONFLY_PORT: Kubernetes sets that for a Service called dragonfly.
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port on 127.0.0.1.")
@click.option("--keep", metavar="DIR", help="Keep all files here; nothing is left without it.")
@click.option("--no-simulate", is_flag=True, help="Simulate no machines: your own agents play them.")
@click.option("--no-restart", is_flag=True, help="Leave a dead replica dead.")
def demo(  # noqa: PLR0917 - click passes what the user said
    machines: int,
    replicas: int,
    seed: int,
    fail_rate: float,
    port: int,
    keep: str | None,
    no_simulate: bool,
    no_restart: bool,
) -> None:
    """Run real etcd, kube-apiserver, Tinkerbell and a load balancer, replicas, and simulated machines; Ctrl-C ends all.

    The first run builds or downloads the programs that it needs, and keeps them in the cache.
    """
    if find_spec("grpc") is None or find_spec("cryptography") is None:
        raise CliError(
            "the demo needs parts that are not installed", Exit.USAGE, "Install them: pip install 'dragonfly[sandbox]'"
        )
    from dragonfly.sandbox.demo import DemoFailed, DemoOptions, run_demo

    options = DemoOptions(
        machines=machines,
        replicas=replicas,
        seed=seed,
        fail_rate=fail_rate,
        port=port,
        keep=Path(keep) if keep else None,
        simulate=not no_simulate,
        restart=not no_restart,
    )
    try:
        run_demo(options, console())
    except DemoFailed as error:
        raise CliError(f"the demo cannot run: {error}", Exit.FAILED) from error

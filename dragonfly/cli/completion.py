"""`dragonfly completion`: the script that a shell needs to complete commands, options and kinds."""

import click
from click.shell_completion import get_completion_class

from dragonfly.cli.errors import CliError, Exit


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    For bash: source <(dragonfly completion bash)
    """
    found = get_completion_class(shell)
    if found is None:
        raise CliError(f"there is no completion for {shell}", Exit.USAGE)
    print(found(ctx.find_root().command, {}, "dragonfly", "_DRAGONFLY_COMPLETE").source())

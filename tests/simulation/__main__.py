"""Tell many histories on all cores: `python -m tests.simulation --seeds 1000000 --first 0`.

One seed alone is told with its trace. Ends with 1 if a promise was broken.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context

import click

from tests.simulation.bugs import be_quiet
from tests.simulation.runs import Summary, run_row
from tests.simulation.world import Outcome, run_seed

_CHUNK = 50
_SHOWN = 20


@click.command()
@click.option("--seeds", default=1000, show_default=True, help="How many histories.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("--trace", default=80, show_default=True, help="Lines of the history that one seed alone is told with.")
def main(seeds: int, first: int, jobs: int, trace: int) -> None:
    """Run simulated histories of the swarm and check the promises."""
    if seeds == 1:
        be_quiet()
        raise SystemExit(_tell(run_seed(first), trace))
    began = time.monotonic()
    rows = [range(start, min(start + _CHUNK, first + seeds)) for start in range(first, first + seeds, _CHUNK)]
    with ProcessPoolExecutor(jobs, get_context("spawn"), be_quiet) as pool:
        done = as_completed([pool.submit(run_row, row) for row in rows])
        total = _watched((row.result() for row in done), seeds, began)
    click.echo(_summary(total, time.monotonic() - began))
    raise SystemExit(1 if total.broken else 0)


def _watched(rows: Iterator[Summary], seeds: int, began: float) -> Summary:
    total = Summary(0, [], Counter(), 0.0)
    spoke = began
    for row in rows:
        for line in islice(row.broken, max(_SHOWN - len(total.broken), 0)):
            click.echo(line)
        total = Summary(
            total.seeds + row.seeds, total.broken + row.broken, total.tried + row.tried, total.seconds + row.seconds
        )
        now = time.monotonic()
        if now - spoke > 10:
            spoke = now
            click.echo(f"{total.seeds} of {seeds}, {len(total.broken)} broken, {total.seeds / (now - began):.0f}/s")
    return total


def _tell(outcome: Outcome, trace: int) -> int:
    click.echo(outcome.history.told(trace))
    click.echo(f"seed {outcome.seed}, {outcome.profile}: {outcome.violation or 'all promises kept'}")
    return 1 if outcome.violation else 0


def _summary(total: Summary, seconds: float) -> str:
    faults = "\n".join(f"  {count:9d}  {fault}" for fault, count in sorted(total.tried.items()))
    return (
        f"{total.seeds} histories, {total.seconds / 3600:.1f} hours of virtual time in {seconds:.0f} s "
        f"({total.seeds / seconds:.0f}/s); {len(total.broken)} broke a promise. Faults tried:\n{faults}"
    )


if __name__ == "__main__":
    main()

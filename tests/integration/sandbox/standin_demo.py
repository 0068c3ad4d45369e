"""Runs the demo with stand-ins for the replicas; run by path, with DemoOptions as JSON."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console

from dragonfly.sandbox import swarm
from dragonfly.sandbox.demo import DemoFailed, DemoOptions, run_demo

if __name__ == "__main__":
    swarm.COMMAND = (sys.executable, str(Path(__file__).with_name("standin.py")))  # type: ignore[misc] # final for all but this stand-in
    try:
        run_demo(msgspec.json.decode(sys.argv[1], type=DemoOptions, dec_hook=lambda kind, text: kind(text)), Console())
    except DemoFailed as error:
        sys.exit(str(error))

"""`python -m dragonfly` is the same as `dragonfly`."""

from dragonfly.cli.main import main

main()

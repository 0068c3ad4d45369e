"""The command line. `main` finds a command by name and imports its module only then, so that --help is quick."""

"""Becomes the program given as arguments, which then dies with the process that started it.

Run as a script with `python -I -S guard.py PARENT_PID PROGRAM [ARGUMENT ...]`; imports nothing of Dragonfly, so that it
costs a few milliseconds. It takes the place of a `preexec_fn`, which is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the line above
        sys.exit("the process that wanted this program is gone")
    os.execvp(program[0], program)  # noqa: S606 - the very purpose


if __name__ == "__main__":
    main()

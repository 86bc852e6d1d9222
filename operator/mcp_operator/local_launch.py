"""Starts a program that must not outlive the process that asked for it, even when that one is killed.

    python -I -S local_launch.py PARENT PROGRAM ARGUMENTS…

The kernel sends SIGTERM when the parent ends (Linux; elsewhere nothing is promised). A program of its own, since
nothing but `exec` is safe between fork and exec. It imports nothing of ours.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    except (ImportError, AttributeError, OSError):
        pass  # not Linux
    if os.getppid() != int(sys.argv[1]):  # it ended before we asked
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 what the parent asked for

"""The command `basin-volume`, the same program as the binary."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from . import _engine

_INTERRUPTED = 130


def main() -> None:
    """Runs the command line; the first Ctrl-C keeps what is done, the second stops at once."""
    job = _engine.command(["basin-volume", *sys.argv[1:]])
    stopped = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            os._exit(_INTERRUPTED)
        stopped = True
        job.interrupt()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A signal that is ignored stays so: that is how nohup keeps a job alive.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    while True:
        message = job.next(0.1)
        if message is not None and message[0] == "end":
            sys.stdout.flush()
            sys.exit(int(message[1]))


if __name__ == "__main__":
    main()

"""What the tests judge time with is judged itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.waiting import POLL_SECONDS, Stopwatch

STOPPED = 0.6


def test_time_that_is_slept_or_waited_counts() -> None:
    watch = Stopwatch()
    time.sleep(0.3)
    assert 0.2 < watch.seconds <= 0.3 + 10 * POLL_SECONDS


def test_time_in_which_the_process_stands_still_does_not_count() -> None:
    code = (
        f"import os, signal, time\n"
        f"os.kill({os.getpid()}, signal.SIGSTOP)\n"
        f"time.sleep({STOPPED})\n"
        f"os.kill({os.getpid()}, signal.SIGCONT)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as stopping:
        watch, began = Stopwatch(), time.monotonic()
        while watch.late < STOPPED / 2 and time.monotonic() < began + 20:
            time.sleep(POLL_SECONDS)
        passed, counted = time.monotonic() - began, watch.seconds
    assert stopping.returncode == 0
    assert passed - counted > STOPPED / 2

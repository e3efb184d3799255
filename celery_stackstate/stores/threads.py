"""Starting a thread where a signal handler may raise in the middle of it."""

from __future__ import annotations

from threading import Thread


def start(thread: Thread) -> None:
    """Start a thread. What struck inside of `Thread.start` is raised as it is, not as what its clean-up made of it."""
    try:
        thread.start()
    except (KeyError, RuntimeError) as error:  # the thread is off its list by then, or the lock it waits with is free
        raise error.__context__ or error from None

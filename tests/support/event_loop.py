"""Tests that are coroutines."""

import asyncio
import functools


def in_event_loop(test):
    """Runs a coroutine function as a test, in an event loop of its own; it may take a minute."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), timeout=60))

    return run

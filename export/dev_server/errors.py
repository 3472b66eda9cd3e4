"""The development server's errors, of its own set-up and of a client's request, and the limit of a request's time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class ConfigurationError(Exception):
    """A flag, a file or a folder that the server cannot work with; the message says why, in one line."""


class ServingError(Exception):
    """A request that cannot be answered: the name of a gRPC status code ("NOT_FOUND") and a message for the client."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@contextlib.asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """Gives up what is awaited within it after that many seconds; None never does.

    A run of the model that a thread has begun goes on, and what comes of it is dropped: nothing can stop it from
    Python. The text is that of TensorFlow's session, which TF Serving passes on.

    Raises:
        ServingError: DEADLINE_EXCEEDED.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise  # the run's own
        raise ServingError("DEADLINE_EXCEEDED", "Timed out waiting for notification") from None

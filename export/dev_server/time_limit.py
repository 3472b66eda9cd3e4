"""A limit on how long a caller waits for a run. Nothing can stop TensorFlow's own run from Python."""

import concurrent.futures
import threading

from .errors import ServingError


def run_within(seconds: float | None, run):
    """`run()`, waited for up to that many seconds; None waits for its end.

    A run that is late goes on in a thread of its own, and what comes of it is dropped. The process does not end before
    it has. The text is that of TensorFlow's session, which TF Serving passes on.

    Raises:
        ServingError: DEADLINE_EXCEEDED, or whatever `run` raises in time.
    """
    if seconds is None:
        return run()
    outcome = concurrent.futures.Future()

    def work():
        try:
            outcome.set_result(run())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work).start()
    concurrent.futures.wait([outcome], max(0.0, seconds))
    if not outcome.done():
        raise ServingError("DEADLINE_EXCEEDED", "Timed out waiting for notification")
    return outcome.result()

"""The errors that the command lines report without a traceback."""


class UserError(ValueError):
    """A mistake in what was asked for. The message names what was given and what is allowed.

    The command lines print it and end with status 2; to Python code it is a ValueError.
    """


class Unfinished(Exception):
    """Work that stopped before its end, with nothing lost: the same command goes on with it.

    The command lines print the message and end with `status`.
    """

    # What sysexits.h calls a temporary failure: "try again".
    TRY_AGAIN, INTERRUPTED = 75, 130

    def __init__(self, message, status=TRY_AGAIN):
        super().__init__(message)
        self.status = status

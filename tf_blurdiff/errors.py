"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """A mistake in what was asked for. The message names what was given and what is allowed.

    The command lines print it without a traceback and end with status 2; to Python code it is a ValueError.
    """

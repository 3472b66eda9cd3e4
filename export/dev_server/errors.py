"""The development server's two kinds of errors: its own set-up, and a client's request."""


class ConfigurationError(Exception):
    """A flag, a file or a folder that the server cannot work with; the message says why, in one line."""


class ServingError(Exception):
    """A request that cannot be answered: the name of a gRPC status code ("NOT_FOUND") and a message for the client."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code

"""The body of an HTTP/1.1 request: of a given length, or sent in chunks (RFC 9112, sections 6 and 7.1)."""

import re

_MAX_BODY_BYTES = 64 * 1024 * 1024  # seeds take a few bytes each: more than this is a mistake
_MAX_LINE, _MAX_TRAILERS = 4096, 100


class BodyError(Exception):
    """A body that cannot be read, and so the connection's next request neither: an HTTP status and a message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def read_body(headers, stream) -> bytes:
    """The body that the headers announce, from a stream that then stands at the next request.

    Args:
        headers: an `email.message.Message`, as `http.server` parses it.
        stream: a binary file.

    Raises:
        BodyError: it is too long, or where it ends cannot be known.
    """
    lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
    if not codings:
        return _read_length(lengths, stream)
    if lengths:  # what two servers in a row understand in two ways lets a request hide in another's body
        raise BodyError(400, "both Content-Length and Transfer-Encoding")
    if ",".join(codings).strip().lower() != "chunked":
        raise BodyError(501, f"Transfer-Encoding must be chunked. Received: {', '.join(codings)}")
    return b"".join(_chunks(stream))


def _read_length(lengths: list, stream) -> bytes:
    length = lengths[0] if lengths else "0"
    if len(set(lengths)) > 1 or not (length.isascii() and length.isdecimal()):
        raise BodyError(400, f"bad Content-Length: {', '.join(lengths)!r}")
    if len(length) > 12 or int(length) > _MAX_BODY_BYTES:
        raise _too_large(length)
    return stream.read(int(length))


def _chunks(stream):
    """Yields each chunk; passes over their extensions, and over the trailers."""
    total = 0
    while size := _chunk_size(stream):
        total += size
        if total > _MAX_BODY_BYTES:
            raise _too_large(f"{total} or more")
        chunk = stream.read(size)
        if len(chunk) < size or _line(stream):
            raise BodyError(400, f"a chunk is not of the {size} bytes that it announces")
        yield chunk
    for _ in range(_MAX_TRAILERS):
        if not _line(stream):
            return
    raise BodyError(431, f"more than {_MAX_TRAILERS} trailers")


def _chunk_size(stream) -> int:
    line = _line(stream)
    size = line.partition(b";")[0].strip()
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", size):
        raise BodyError(400, f"bad size of a chunk: {line[:80]!r}")
    return int(size, 16)


def _line(stream) -> bytes:
    line = stream.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        raise BodyError(400, "a chunked body that breaks off, or has too long a line")
    return line.rstrip(b"\r\n")


def _too_large(length) -> BodyError:
    return BodyError(413, f"a body of {length} bytes is too large for this development server")

"""For any bytes, cut anywhere, with any limits: what triochan's parser takes for a request, h11 takes for the same one;
the cuts change nothing; and what is written in answer, h11 reads.

    python tests/fuzz/heads.py -max_total_time=60
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

HEAD_SIZES = (128, 256, 512, 4096)
BODY_SIZES = (0, 1, 16, 64, 4096)
BODY = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUESTS = [
    BODY
    + b'5;a="b c"\r\nhello\r\n1\r\n\r\r\n00\r\nX: y\r\n\r\n'
    + BODY
    + b"14\r\n01234567890123456789\r\n0\r\n\r\n",
    b"GET http://[::1]:80/a%20b?c HTTP/1.1\r\nHost: y\r\nConnection: close\r\n\r\n",
    b"\r\nOPTIONS http://x HTTP/1.1\r\nHost:\r\n\r\n",
    b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
]
WORDS = [
    b"1\r\nx\r\n", b"5\r\nhello\r\n", b"a;b=c\r\n", b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Host:\r\n", b"https://",
    b"[::1]", b"\r\n ", b" :", b"gzip, ", b"100-continue", b"\r", b"\n", b"\0",
]  # fmt: skip


def seeds() -> list[bytes]:
    """Inputs to begin with: three bytes of parameters, then the stream."""
    from fuzz import http_head

    streams = [*REQUESTS, *http_head.REQUESTS]
    return [bytes((2, 3, cut)) + data for data in streams for cut in (0, 1, 40)]


def check(data: bytes) -> None:
    if len(data) < 3:
        return
    from fuzz.http_reference import answer, as_exchange, read, read_by_h11, read_response

    head_size, body_size = HEAD_SIZES[data[0] % len(HEAD_SIZES)], BODY_SIZES[data[1] % len(BODY_SIZES)]
    step, stream = data[2], data[3:]
    whole = read(stream, max_head_size=head_size, max_body_size=body_size)
    taken = [as_exchange(request) for request in whole.requests]
    assert taken == read_by_h11(stream)[: len(taken)], "h11 takes something else"
    for request in whole.requests:
        assert len(request.body) <= body_size
        assert read_response(request, answer(request)) == (request.body, request.keep_alive)
    if step:
        cut = read(stream, range(0, len(stream), step), max_head_size=head_size, max_body_size=body_size)
        assert cut.requests == whole.requests, "another cut makes other requests"
        assert (cut.refusal is None) == (whole.refusal is None), "another cut changes what is refused"
        assert (cut.ended is None) == (whole.ended is None)


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["triochan", "h11"]):
        import fuzz.http_reference  # noqa: F401 - now, so that it is instrumented
    from fuzz.engine import fuzz as run
    from fuzz.http_head import WORDS as MORE

    run(check, seeds(), [*WORDS, *MORE])


if __name__ == "__main__":
    main()

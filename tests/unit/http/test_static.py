"""Static files: what is served, and that no path leads anywhere else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from triochan import Channel, Message
from triochan.exceptions import ImproperlyConfigured
from triochan.http import static, static_files
from triochan.http.conditions import http_date
from triochan.replies import parse_http

SECRET = b"SECRET"
MODIFIED = 784111777
"""Sun, 06 Nov 1994 08:49:37 GMT: when the folder's files were."""


class Replies(Channel):
    """A reply channel that remembers, and checks as a real one does."""

    def __init__(self) -> None:
        super().__init__("http.response.x!1")
        self.pieces: list[bytes] = []
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False

    async def send(self, content: dict[str, Any], /, *, delay: float = 0.0, immediately: bool = True) -> None:
        assert not self.complete
        reply = parse_http(content, started=bool(self.status))
        if reply.status is not None:
            self.status = reply.status
            self.headers = {name.lower(): value for name, value in reply.headers}
        self.pieces.append(reply.content)
        self.complete = not reply.more_content

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``web``, with files in it, and secrets beside it."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "web-secret").mkdir()
    (tmp_path / "web-secret" / "x.txt").write_bytes(SECRET)
    web = tmp_path / "web"
    (web / "sub").mkdir(parents=True)
    (web / "app.js").write_text("let a\n")
    (web / "a b.txt").write_text("space")
    (web / "café.html").write_text("café")
    (web / "index.html").write_text("home")
    (web / "sub" / "index.html").write_text("sub")
    (web / "sub" / "page.html").write_text("page")
    (web / "empty.css").write_text("")
    (web / "none").mkdir()
    (web / ".hidden").write_bytes(SECRET)
    (web / ".git").mkdir()
    (web / ".git" / "config").write_bytes(SECRET)
    (web / "sub" / ".env").write_bytes(SECRET)
    for path in web.rglob("*.*"):
        os.utime(path, (MODIFIED, MODIFIED))
    return web


async def get(
    folder: Path,
    path: str,
    *,
    method: str = "GET",
    prefix: str = "/static/",
    headers: Any = (),
    query_string: bytes = b"",
    **options: Any,
) -> Replies | None:
    """What a request gets; None where the route does not take it."""
    replies = Replies()
    content = {"path": path, "method": method, "headers": list(headers), "query_string": query_string}
    message = Message(content, Channel("http.request"), replies)
    match = static_files(prefix, folder, **options).match(message)
    if match is None:
        return None
    consumer, kwargs = match
    await consumer(message, **kwargs)
    assert replies.complete
    return replies


async def answer(*args: Any, **kwargs: Any) -> Replies:
    replies = await get(*args, **kwargs)
    assert replies is not None
    return replies


def then(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Call ``change`` once the first piece of a response has been sent."""
    send = Replies.send

    async def sends(self: Replies, content: dict[str, Any], /, *, immediately: bool = True) -> None:
        await send(self, content)
        change()

    monkeypatch.setattr(Replies, "send", sends)


class TestServes:
    @pytest.mark.parametrize(
        ("path", "body", "kind"),
        [
            ("/static/app.js", b"let a\n", rb"(text|application)/javascript; charset=utf-8"),
            ("/static/sub/page.html", b"page", rb"text/html; charset=utf-8"),
            ("/static/sub//page.html", b"page", rb"text/html; charset=utf-8"),
            ("/static/a b.txt", b"space", rb"text/plain; charset=utf-8"),
            ("/static/café.html", "café".encode(), rb"text/html; charset=utf-8"),
            ("/static/", b"home", rb"text/html; charset=utf-8"),
            ("/static/sub/", b"sub", rb"text/html; charset=utf-8"),
            ("/static/empty.css", b"", rb"text/css; charset=utf-8"),
        ],
    )
    async def test_files(self, folder: Path, path: str, body: bytes, kind: bytes) -> None:
        replies = await answer(folder, path)
        assert (replies.status, replies.body) == (200, body)
        assert replies.headers[b"content-length"] == b"%d" % len(body)
        assert re.fullmatch(kind, replies.headers[b"content-type"])
        assert replies.headers[b"x-content-type-options"] == b"nosniff"

    async def test_head_is_the_same_without_the_body(self, folder: Path) -> None:
        got = await answer(folder, "/static/app.js")
        head = await answer(folder, "/static/app.js", method="HEAD")
        assert (head.status, head.headers, head.body) == (200, got.headers, b"")

    @pytest.mark.rfc("9110", "15.5.6", "MUST send Allow with 405")
    @pytest.mark.rfc("9110", "10.2.1", "MUST send Allow with 405")
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "PROPFIND"])
    async def test_other_methods_are_405(self, folder: Path, method: str) -> None:
        replies = await answer(folder, "/static/app.js", method=method)
        assert (replies.status, replies.headers[b"allow"]) == (405, b"GET, HEAD")

    async def test_a_large_file_comes_in_pieces(self, folder: Path) -> None:
        content = os.urandom(600_000)
        (folder / "large.bin").write_bytes(content)
        replies = await answer(folder, "/static/large.bin")
        assert replies.body == content
        assert len(replies.pieces) > 1
        assert replies.headers[b"content-type"] == b"application/octet-stream"

    async def test_a_file_that_becomes_shorter_is_not_completed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "large.bin").write_bytes(bytes(600_000))
        then(monkeypatch, lambda: os.truncate(folder / "large.bin", 300_000))
        with pytest.raises(OSError, match="became shorter"):
            await get(folder, "/static/large.bin")

    async def test_a_file_that_grows_is_sent_as_long_as_it_was_said_to_be(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "large.bin").write_bytes(bytes(600_000))
        then(monkeypatch, lambda: os.truncate(folder / "large.bin", 900_000))
        replies = await answer(folder, "/static/large.bin")
        assert (len(replies.body), replies.headers[b"content-length"]) == (600_000, b"600000")

    @pytest.mark.parametrize("asked", [b"", b"bytes=0-2"])
    async def test_a_file_that_is_replaced_before_it_is_opened(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, asked: bytes
    ) -> None:
        """What is sent has the length and the ETag of what it is."""
        found = static._find(folder, "app.js", "index.html", [])
        (folder / "new").write_text("let a, b\n")
        os.utime(folder / "new", (MODIFIED, MODIFIED))
        (folder / "new").replace(folder / "app.js")
        expected = await answer(folder, "/static/app.js", headers=[(b"range", asked)])
        monkeypatch.setattr(static, "_find", lambda *args: found)
        replies = await answer(folder, "/static/app.js", headers=[(b"range", asked)])
        assert (replies.status, replies.headers, replies.body) == (
            expected.status, expected.headers, expected.body,
        )  # fmt: skip

    async def test_a_file_that_goes_before_it_is_opened_is_404(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = static._find(folder, "app.js", "index.html", [])
        (folder / "app.js").unlink()
        monkeypatch.setattr(static, "_find", lambda *args: found)
        assert (await answer(folder, "/static/app.js")).status == 404

    async def test_another_index(self, folder: Path) -> None:
        assert (await answer(folder, "/static/sub/", index="page.html")).body == b"page"
        assert (await answer(folder, "/static/none/")).status == 404

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_a_folder_without_a_slash(self, folder: Path, method: str) -> None:
        """The links of its page are relative to the folder, so the browser has to see the slash."""
        (folder / "a:b é").mkdir()
        (folder / "a:b é" / "index.html").write_text("x")
        for path, asked, location in (
            ("/static/sub", b"", b"./sub/"),
            ("/static/sub", b"a=1&b=%2F", b"./sub/?a=1&b=%2F"),
            ("/static//sub", b"", b"./sub/"),
            ("/static/a:b é", b"", b"./a%3Ab%20%C3%A9/"),
        ):
            replies = await answer(folder, path, method=method, query_string=asked)
            assert (replies.status, replies.body) == (307, b"")
            assert replies.headers[b"location"] == location
        assert (await answer(folder, "/static", prefix="/static")).headers[b"location"] == b"./static/"
        assert (await answer(folder, "/static/", prefix="/static")).body == b"home"
        assert (await answer(folder, "/static/none")).status == 404

    async def test_prefixes_are_not_regular_expressions(self, folder: Path) -> None:
        assert (await answer(folder, "/a.b+c/app.js", prefix="/a.b+c/")).status == 200
        assert await get(folder, "/aXb+c/app.js", prefix="/a.b+c/") is None
        assert (await answer(folder, "/é /app.js", prefix="/é /")).status == 200
        assert await get(folder, "/other/static/app.js") is None

    def test_there_has_to_be_a_folder(self, folder: Path) -> None:
        for missing in (folder / "missing", folder / "app.js"):
            with pytest.raises(ImproperlyConfigured, match="is no folder"):
                static_files("/static/", missing)


class TestRevalidation:
    async def test_an_etag_that_is_known_is_304(self, folder: Path) -> None:
        etag = (await answer(folder, "/static/app.js")).headers[b"etag"]
        for known in (etag, b"W/" + etag, b'"x", ' + etag, b'"x",W/' + etag + b' , "y"', b"*"):
            for method in ("GET", "HEAD"):
                replies = await answer(
                    folder, "/static/app.js", method=method, headers=[(b"if-none-match", known)]
                )
                assert (replies.status, replies.body) == (304, b"")
                assert replies.headers[b"etag"] == etag
                assert b"content-length" not in replies.headers

    @pytest.mark.rfc(
        "9110", "15.4.5", "MUST send with 304 the ETag, Date, Cache-Control and the like of the 200"
    )
    async def test_304_has_what_the_200_has(self, folder: Path) -> None:
        whole = (await answer(folder, "/static/app.js")).headers
        del whole[b"content-length"]
        replies = await answer(folder, "/static/app.js", headers=[(b"if-none-match", b"*")])
        assert (replies.status, replies.headers) == (304, whole)

    async def test_another_is_not(self, folder: Path) -> None:
        for known in (b'"x"', b"", b'"' + b"0" * 16 + b'"', b'"*"'):
            assert (await answer(folder, "/static/app.js", headers=[(b"if-none-match", known)])).status == 200

    async def test_a_changed_file_has_another_etag(self, folder: Path) -> None:
        before = (await answer(folder, "/static/app.js")).headers[b"etag"]
        (folder / "app.js").write_text("let b!\n")
        assert (await answer(folder, "/static/app.js")).headers[b"etag"] != before

    @pytest.mark.rfc("9110", "8.8.3", "MUST mark an entity tag as weak that is no strong validator")
    async def test_a_file_that_may_change_unnoticed_has_a_weak_etag(self, folder: Path) -> None:
        (folder / "app.js").write_text("let b\n")
        etag = (await answer(folder, "/static/app.js")).headers[b"etag"]
        assert etag.startswith(b'W/"')
        condition = [(b"if-none-match", etag)]
        assert (await answer(folder, "/static/app.js", headers=condition)).status == 304
        assert (await answer(folder, "/static/app.js", headers=[(b"if-match", etag)])).status == 412
        parts = [(b"range", b"bytes=0-0"), (b"if-range", etag)]
        assert (await answer(folder, "/static/app.js", headers=parts)).status == 200
        os.utime(folder / "app.js", (MODIFIED, MODIFIED))
        assert not (await answer(folder, "/static/app.js")).headers[b"etag"].startswith(b"W/")

    async def test_last_modified_is_a_date(self, folder: Path) -> None:
        os.utime(folder / "app.js", (0, 0))
        replies = await answer(folder, "/static/app.js")
        assert replies.headers[b"last-modified"] == b"Thu, 01 Jan 1970 00:00:00 GMT"

    @pytest.mark.rfc("9110", "8.8.2.1", "MUST NOT send a Last-Modified that is later than Date")
    async def test_a_file_from_the_future(self, folder: Path) -> None:
        os.utime(folder / "app.js", (time.time() + 9000, time.time() + 9000))
        replies = await answer(folder, "/static/app.js")
        said = http_date(replies.headers[b"last-modified"].decode())
        assert said is not None
        assert said <= time.time()
        assert replies.headers[b"etag"].startswith(b"W/")

    async def test_dates(self, folder: Path) -> None:
        date = b"Sun, 06 Nov 1994 08:49:37 GMT"
        assert (await answer(folder, "/static/app.js")).headers[b"last-modified"] == date
        assert (await answer(folder, "/static/app.js", headers=[(b"if-modified-since", date)])).status == 304
        earlier = date.replace(b":37", b":36")
        for name, status in ((b"if-modified-since", 200), (b"if-unmodified-since", 412)):
            assert (await answer(folder, "/static/app.js", headers=[(name, earlier)])).status == status

    @pytest.mark.rfc("9110", "13.1.1", "MUST NOT do what is asked where If-Match is not met")
    @pytest.mark.rfc("9110", "13.1.4", "MUST NOT do what is asked where If-Unmodified-Since is not met")
    async def test_412(self, folder: Path) -> None:
        etag = (await answer(folder, "/static/app.js")).headers[b"etag"]
        assert (await answer(folder, "/static/app.js", headers=[(b"if-match", etag)])).status == 200
        replies = await answer(folder, "/static/app.js", headers=[(b"if-match", b'"x"')])
        assert (replies.status, b"let a" in replies.body) == (412, False)

    @pytest.mark.rfc("9110", "13.2.1", "MUST ignore conditions where the answer without them would be no 2xx")
    @pytest.mark.rfc("9110", "13.2.1", "MUST ignore conditions of methods that select nothing")
    @pytest.mark.rfc(
        "9110", "13.2.1", "MUST look at conditions behind all other checks, and before what is asked is done"
    )
    async def test_conditions_of_what_is_not_served(self, folder: Path) -> None:
        for name in (b"if-none-match", b"if-match"):
            for value in (b"*", b'"x"'):
                headers = [(name, value), (b"range", b"bytes=0-0")]
                assert (await answer(folder, "/static/missing", headers=headers)).status == 404
                assert (
                    await answer(folder, "/static/app.js", method="OPTIONS", headers=headers)
                ).status == 405


class TestNeighbours:
    """Files that lie beside in a content coding."""

    @pytest.fixture
    def folder(self, folder: Path) -> Path:
        for suffix in (".br", ".zst", ".gz"):
            (folder / f"app.js{suffix}").write_text(f"compressed{suffix}")
            os.utime(folder / f"app.js{suffix}", (MODIFIED, MODIFIED))
        return folder

    @pytest.mark.rfc("9110", "12.5.3", "SHOULD send a content coding that the client accepts")
    @pytest.mark.parametrize(
        ("accept", "coding"),
        [
            ("gzip, deflate, br", "br"),
            ("gzip, deflate", "gzip"),
            ("GZIP", "gzip"),
            ("*", "br"),
            ("zstd;q=1.0, br;q=0.5", "zstd"),
            ("br;q=0, *;q=0.1", "zstd"),
            ("gzip;q=0.5, br;q=0.4", "gzip"),
            ("br; q=0.001", "br"),
            ("", None),
            ("identity", None),
            ("br;q=0, gzip;q=0.000, zstd; q=0", None),
            ("*;q=0", None),
            ("x-gzip", "gzip"),
            ("br;q=0.5, identity", None),
            ("br;q=0.5, gzip;q=0.8, identity;q=0.6", "gzip"),
            ("br;q=0.5, identity;q=0.5", "br"),
            ("gzip;q=2", None),
            ("gzip;x=1", None),
            ("(gzip)", None),
            ("gzip," * 5000, "gzip"),
        ],
    )
    async def test_one_is_sent_to_who_accepts_it(self, folder: Path, accept: str, coding: str | None) -> None:
        replies = await answer(folder, "/static/app.js", headers=[(b"accept-encoding", accept.encode())])
        assert replies.status == 200
        assert re.fullmatch(
            rb"(text|application)/javascript; charset=utf-8", replies.headers[b"content-type"]
        )
        assert replies.headers[b"vary"] == b"Accept-Encoding"
        suffix = {"br": ".br", "zstd": ".zst", "gzip": ".gz", None: ""}[coding]
        assert replies.headers.get(b"content-encoding") == (coding.encode() if coding else None)
        assert replies.body == (f"compressed{suffix}".encode() if coding else b"let a\n")

    async def test_each_has_an_etag_of_its_own(self, folder: Path) -> None:
        etags = set()
        for accept in (b"br", b"gzip", b"zstd", b""):
            replies = await answer(folder, "/static/app.js", headers=[(b"accept-encoding", accept)])
            etags.add(replies.headers[b"etag"])
            known = [(b"accept-encoding", accept), (b"if-none-match", replies.headers[b"etag"])]
            again = await answer(folder, "/static/app.js", headers=known)
            assert again.status == 304
            assert again.headers[b"vary"] == b"Accept-Encoding"
        assert len(etags) == 4

    async def test_one_that_is_older_is_passed_over(self, folder: Path) -> None:
        os.utime(folder / "app.js.br", (MODIFIED - 1, MODIFIED - 1))
        replies = await answer(folder, "/static/app.js", headers=[(b"accept-encoding", b"br, gzip")])
        assert replies.headers[b"content-encoding"] == b"gzip"

    async def test_one_that_leads_out_or_is_no_file_is_passed_over(self, folder: Path) -> None:
        (folder / "app.js.br").unlink()
        (folder / "app.js.br").symlink_to("../secret.txt")
        (folder / "app.js.zst").unlink()
        (folder / "app.js.zst").mkdir()
        replies = await answer(folder, "/static/app.js", headers=[(b"accept-encoding", b"br, zstd, gzip")])
        assert replies.headers[b"content-encoding"] == b"gzip"

    async def test_asked_for_itself_it_is_what_it_is(self, folder: Path) -> None:
        replies = await answer(folder, "/static/app.js.gz", headers=[(b"accept-encoding", b"gzip")])
        assert replies.headers[b"content-type"] == b"application/gzip"
        assert b"content-encoding" not in replies.headers

    async def test_without_one_nothing_varies(self, folder: Path) -> None:
        replies = await answer(folder, "/static/empty.css", headers=[(b"accept-encoding", b"br")])
        assert b"vary" not in replies.headers

    async def test_ranges_of_it(self, folder: Path) -> None:
        asked = [(b"accept-encoding", b"br"), (b"range", b"bytes=0-9")]
        replies = await answer(folder, "/static/app.js", headers=asked)
        assert (replies.status, replies.body) == (206, b"compressed")

    async def test_how_long_it_may_be_kept(self, folder: Path) -> None:
        replies = await answer(folder, "/static/app.js", cache_control="max-age=60")
        assert replies.headers[b"cache-control"] == b"max-age=60"


class TestRanges:
    @pytest.mark.rfc("9110", "15.3.7.1", "MUST send Content-Range and that part with 206")
    @pytest.mark.rfc(
        "9110", "15.3.7", "MUST send with 206 the ETag, Date, Cache-Control and the like of the 200"
    )
    @pytest.mark.parametrize(
        ("asked", "said", "body"),
        [
            (b"bytes=0-2", b"bytes 0-2/6", b"let"),
            (b"bytes=4-4", b"bytes 4-4/6", b"a"),
            (b"bytes=4-", b"bytes 4-5/6", b"a\n"),
            (b"bytes=-2", b"bytes 4-5/6", b"a\n"),
            (b"bytes=-99", b"bytes 0-5/6", b"let a\n"),
            (b"Bytes=4-99999999999999999999999", b"bytes 4-5/6", b"a\n"),
        ],
    )
    async def test_one(self, folder: Path, asked: bytes, said: bytes, body: bytes) -> None:
        whole = await answer(folder, "/static/app.js")
        replies = await answer(folder, "/static/app.js", headers=[(b"range", asked)])
        assert (replies.status, replies.body) == (206, body)
        length = b"%d" % len(body)
        assert replies.headers == {**whole.headers, b"content-range": said, b"content-length": length}
        assert whole.headers[b"accept-ranges"] == b"bytes"

    async def test_behind_the_end(self, folder: Path) -> None:
        for asked in (b"bytes=6-", b"bytes=99999999999999999999999-", b"bytes=-0"):
            replies = await answer(folder, "/static/app.js", headers=[(b"range", asked)])
            assert (replies.status, replies.headers[b"content-range"]) == (416, b"bytes */6")
            assert b"let" not in replies.body

    @pytest.mark.rfc("9110", "14.2", "MUST ignore Range with methods that it is not for")
    async def test_not_with_head(self, folder: Path) -> None:
        replies = await answer(folder, "/static/app.js", method="HEAD", headers=[(b"range", b"bytes=0-0")])
        assert (replies.status, replies.headers[b"content-length"]) == (200, b"6")

    @pytest.mark.rfc("9110", "14.4", "MUST ignore Content-Range in requests of methods that it is not for")
    async def test_content_range_in_a_request(self, folder: Path) -> None:
        replies = await answer(folder, "/static/app.js", headers=[(b"content-range", b"bytes 0-1/6")])
        assert (replies.status, replies.body) == (200, b"let a\n")

    async def test_of_a_large_file(self, folder: Path) -> None:
        content = os.urandom(600_000)
        (folder / "large.bin").write_bytes(content)
        replies = await answer(folder, "/static/large.bin", headers=[(b"range", b"bytes=100-400099")])
        assert replies.body == content[100:400_100]
        assert len(replies.pieces) == 2


@pytest.mark.rfc("9110", "8.4", "MUST list in Content-Encoding the codings that were applied: here, none")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tar.gz", b"application/gzip"),
        ("a.js.gz", b"application/gzip"),
        ("a.tgz", b"application/gzip"),
        ("a.txt.bz2", b"application/x-bzip2"),
        ("a.svgz", b"application/gzip"),
        ("a.txt.xz", b"application/x-xz"),
        ("a.txt.br", b"application/octet-stream"),
        ("a.unknown-kind", b"application/octet-stream"),
        ("a.json", b"application/json; charset=utf-8"),
        ("a.png", b"image/png"),
    ],
)
async def test_kinds(folder: Path, name: str, kind: bytes) -> None:
    """A browser that is told of a coding undoes it, and saves an archive that is none."""
    (folder / name).write_bytes(b"x")
    replies = await answer(folder, f"/static/{name}")
    assert replies.headers[b"content-type"] == kind
    assert b"content-encoding" not in replies.headers


class TestNoWayOut:
    @pytest.mark.parametrize(
        "name",
        [
            "../secret.txt", "..", "../", "/../secret.txt", "sub/../../secret.txt", "sub/../app.js",
            "./app.js", ".", "sub/.",
            "%2e%2e/secret.txt", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "..\\secret.txt",
            "sub\\..\\..\\secret.txt",
            "..%5csecret.txt", "%252e%252e%252fsecret.txt", "....//secret.txt", "..././secret.txt", "..;/secret.txt",
            "../web-secret/x.txt", "-secret/x.txt", "../web/app.js", ".hidden", ".git/config", "sub/.env",
            ".git/", "sub//.env",
            "app.js\0", "app.js\0.html", "\0", "\0/../secret.txt", "app.js/", "app.js/x", "app.js/../app.js",
            "a" * 300,
            "a/" * 3000, "/etc/passwd", "//etc/passwd", "file:///etc/passwd", "~/secret.txt", "~root",
            "C:/windows", "c:secret",
            "\u2024\u2024/secret.txt", "\uff0e\uff0e/secret.txt", "..\u2215secret.txt", "missing",
            "missing/index.html", " ",
        ],
    )  # fmt: skip
    async def test_is_404(self, folder: Path, name: str) -> None:
        replies = await answer(folder, "/static/" + name)
        assert (replies.status, SECRET in replies.body) == (404, False)

    @pytest.mark.parametrize("prefix", ["/static/", "/static", "/", ""])
    async def test_whatever_the_prefix(self, folder: Path, prefix: str) -> None:
        for name in (
            "../secret.txt",
            "/../secret.txt",
            "-secret/x.txt",
            ".hidden",
            "//secret.txt",
            "/etc/hostname",
        ):
            replies = await answer(folder, prefix + name, prefix=prefix)
            assert replies.status == 404

    async def test_a_link_that_stays_inside_is_followed(self, folder: Path) -> None:
        (folder / "link.html").symlink_to("sub/page.html")
        (folder / "linked").symlink_to("sub")
        assert (await answer(folder, "/static/link.html")).body == b"page"
        assert (await answer(folder, "/static/linked/page.html")).body == b"page"
        assert (await answer(folder, "/static/linked/")).body == b"sub"

    async def test_a_link_that_leads_out_is_not(self, folder: Path) -> None:
        (folder / "out.txt").symlink_to("../secret.txt")
        (folder / "absolute.txt").symlink_to((folder.parent / "secret.txt").absolute())
        (folder / "up").symlink_to("..")
        (folder / "beside").symlink_to("../web-secret")
        (folder / "chain").symlink_to("out.txt")
        (folder / "none" / "index.html").symlink_to("../../secret.txt")
        (folder / "round").symlink_to("up/web")
        for name in (
            "out.txt",
            "absolute.txt",
            "up/secret.txt",
            "beside/x.txt",
            "chain",
            "none/",
            "none/index.html",
        ):
            assert (await answer(folder, "/static/" + name)).status == 404
        assert (await answer(folder, "/static/round/app.js")).status == 200  # out, and in again

    async def test_a_folder_that_is_itself_a_link(self, folder: Path) -> None:
        link = folder.parent / "link"
        link.symlink_to(folder)
        assert (await answer(link, "/static/app.js")).status == 200
        assert (await answer(link, "/static/../secret.txt")).status == 404

    async def test_links_in_a_circle(self, folder: Path) -> None:
        (folder / "a").symlink_to("b")
        (folder / "b").symlink_to("a")
        (folder / "self").symlink_to("self")
        (folder / "dangling").symlink_to("missing")
        for name in ("a", "a/x", "self", "dangling"):
            assert (await answer(folder, "/static/" + name)).status == 404

    async def test_what_is_no_file(self, folder: Path) -> None:
        os.mkfifo(folder / "fifo")
        (folder / "device").symlink_to("/dev/zero")
        for name in ("fifo", "device", "none", "none/"):
            assert (await answer(folder, "/static/" + name)).status == 404

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
    @given(
        st.lists(
            st.sampled_from(
                [
                    "..",
                    ".",
                    "/",
                    "\\",
                    "%2e",
                    "%2f",
                    "secret.txt",
                    "sub",
                    "app.js",
                    "web",
                    ".hidden",
                    "\0",
                    "out",
                    "a",
                    "\n",
                    "~",
                ]
            ),
            max_size=8,
        ).map("".join)
    )
    @example("app.js\n")
    def test_any_combination_finds_a_file_inside_or_nothing(self, folder: Path, name: str) -> None:
        if not (folder / "out").is_symlink():
            (folder / "out").symlink_to("..")
        for suffix in (".br", ".gz"):
            if not (folder / f"app.js{suffix}").is_symlink():
                (folder / f"app.js{suffix}").symlink_to("../secret.txt")
        found = static._find(folder, name, "index.html", ["br", "gzip"])
        if found is not None:
            path = found.path
            assert path.is_relative_to(folder.resolve())
            assert not any(part.startswith(".") for part in path.relative_to(folder.resolve()).parts)
            assert SECRET not in path.read_bytes()

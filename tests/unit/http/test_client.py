"""The route to the browser client: its bytes, its type, and revalidation by ``ETag``."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from triochan import __version__
from triochan.http import client_route
from triochan.test import Client

FOLDER = resources.files("triochan") / "client"
SOURCE = (FOLDER / "triochan.js").read_bytes()


async def test_the_client_is_served() -> None:
    async with Client([client_route()]) as client:
        response = await client.get("/triochan/client.js")
        assert (response.status, response.body) == (200, SOURCE)
        assert response.header("content-type") == "text/javascript; charset=utf-8"
        assert response.header("content-length") == str(len(SOURCE))
        assert response.header("x-content-type-options") == "nosniff"
        head = await client.request("HEAD", "/triochan/client.js")
        assert (head.status, head.body) == (200, b"")
        assert head.header("content-length") == str(len(SOURCE))


async def test_it_is_revalidated() -> None:
    async with Client([client_route()]) as client:
        etag = (await client.get("/triochan/client.js")).header("etag")
        assert etag is not None
        assert etag.startswith('"')
        for known, status in ((etag, 304), (f'"other", W/{etag}', 304), ("*", 304), ('"other"', 200)):
            response = await client.get("/triochan/client.js", headers={"If-None-Match": known})
            assert (response.status, response.body) == (status, b"" if status == 304 else SOURCE)
            assert response.header("etag") == etag
            assert response.header("cache-control") == "no-cache"


@pytest.mark.rfc("9110", "13.1.5", "MUST ignore If-Range where there are no ranges to be had")
async def test_there_are_no_ranges() -> None:
    async with Client([client_route()]) as client:
        headers = {"Range": "bytes=0-1", "If-Range": '"other"'}
        response = await client.get("/triochan/client.js", headers=headers)
        assert (response.status, response.body) == (200, SOURCE)


async def test_nothing_else_is() -> None:
    async with Client([client_route()]) as client:
        for path in (
            "/triochan/client.d.ts",
            "/triochan/triochan.d.ts",
            "/triochan/clientxjs",
            "/triochan/client.js/",
        ):
            assert (await client.get(path)).status == 404
        response = await client.post("/triochan/client.js")
        assert (response.status, response.header("allow")) == (405, "GET, HEAD")


async def test_it_may_have_another_path() -> None:
    async with Client([client_route("/static/js/live+client.js")]) as client:
        assert (await client.get("/static/js/live+client.js")).body == SOURCE
        assert (await client.get("/static/js/liveeclient.js")).status == 404


def test_the_npm_package_is_this_one() -> None:
    about = json.loads((FOLDER / "package.json").read_text())
    assert (about["name"], about["version"]) == ("triochan", __version__)
    # npm takes a licence from the package's own folder only, and follows no link.
    licence = Path(__file__).parents[3] / "LICENSE"
    assert (FOLDER / "LICENSE").read_bytes() == licence.read_bytes()

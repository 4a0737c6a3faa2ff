"""HTTP for consumers: what a request brings, contents of responses, cookies, static files, the browser client.

The consumer of an ``http.request`` message answers with what these make::

    async def index(message):
        return html("<h1>Hello</h1>")

or, where it goes on afterwards or sends pieces, with ``await message.reply_channel.send(html("<h1>Hello</h1>"))``.
"""

from ..exceptions import HttpError
from ..replies import LATER
from .client import client_route
from .cookies import parse_cookies, set_cookie
from .cors import before_response, cors
from .requests import Fields, Form, UploadedFile, form, json_body, query
from .responses import html, json, redirect, text
from .static import static_files

__all__ = [
    "LATER",
    "Fields",
    "Form",
    "HttpError",
    "UploadedFile",
    "before_response",
    "client_route",
    "cors",
    "form",
    "html",
    "json",
    "json_body",
    "parse_cookies",
    "query",
    "redirect",
    "set_cookie",
    "static_files",
    "text",
]

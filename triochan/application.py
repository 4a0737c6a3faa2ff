"""An application: a routing and what belongs to it."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic

import attrs
import trio

from .auth import AnonymousUser, UserLoader, id_attribute, user_group
from .exceptions import ImproperlyConfigured
from .http.cookies import SameSite
from .layers import Group
from .lifespan import Lifespan, check_lifespan, living, nursery_of
from .middleware import Middleware, check_middleware
from .origins import AllowedHosts, AllowedOrigins
from .routing import Router, Routing, is_async, name_of
from .running import serving
from .sessions import MemorySessionStore, SessionCookies, Sessions, SessionStore, SqliteSessionStore
from .typed import converts_plain, make_converter
from .typed.parameters import TypeVar

if TYPE_CHECKING:
    from cattrs import Converter

DEFAULT_SESSION_FILE = "triochan-sessions.sqlite3"

S = TypeVar("S", default=Any)


@attrs.frozen(init=False, eq=False)
class Application(Generic[S]):
    """A routing, checked, with the services its consumers use.

    Consumers find it at ``message.application``.

    Args:
        routing: a list of routes, a mapping of channel to consumer, or the dotted name of either.
        session_store: where HTTP sessions are kept; None: in memory, so that they end with the process.
        channel_session_store: where channel sessions are kept; None: with their connections. Consumers in other
            processes than the connection's need one that all of them share, such as a RedisSessionStore.
        secrets: sign the session cookies: the first one signs, all of them verify. None at all: those in the
            environment variable ``TRIOCHAN_SECRET``, with commas between them; and without it a random one, which
            ends every session when the process ends.
        user_loader: async, gets a session that holds something and returns its user, or None for nobody. The id
            that ``login`` was given the user with is at ``session["user_id"]``.
        user_id: what identifies a user: an int or a string; by default ``user.id``.
        allowed_hosts: names in the ``Host`` header that are answered, e.g. ``["example.com", ".example.org"]``;
            another one gets 400. None: all are.
        allowed_origins: pages that may open WebSockets with sessions, beside the server's own, e.g.
            ``["https://example.com"]``; ``"*"``: every page there is.
        cookie_name, cookie_path, cookie_domain: of the session cookie.
        cookie_secure: send it over TLS only; None: if it was set over TLS.
        cookie_same_site: ``"Lax"``, ``"Strict"`` or ``"None"``.
        session_age: seconds from the last change until a session is over, a whole number; 14 days.
        state: what :attr:`state` is: an object of the program's own class, so that a type checker knows what is in it
            (``Application[Services]`` is what the lifespan then gets); None: a plain namespace.
        lifespan: a function of the application that gives an async context manager, entered before the first
            connection is accepted and left after the last one has ended::

                @asynccontextmanager
                async def lifespan(application):
                    application.state.database = await open_database()
                    application.nursery.start_soon(every, 60, clean_up)
                    yield
                    await application.state.database.close()

            What it raises at the start comes out of :func:`triochan.serve`. Several servers of one application in one
            Trio run share it.
        middleware: each an ``async def middleware(message, handler)``, around every handler of the routing, of
            WebSockets, requests and named channels alike; the first one is the outermost. It awaits
            ``handler(message)`` or does not, and returns what that returned (:mod:`triochan.middleware`).
        converter: makes objects of JSON values and back, for consumers whose content is annotated; None: one of
            :func:`triochan.typed.make_converter`. Hooks may be registered on ``application.converter`` until it serves.

    Attributes:
        state: for the program's own, ``application.state.name = value``; consumers find it at
            ``message.application.state``, to a type checker as what they say that it is:
            ``services: Services = message.application.state``.

    Raises:
        ImproperlyConfigured: the routing is wrong, the message names the place; or another argument is.
    """

    router: Router
    sessions: Sessions
    user_loader: UserLoader | None
    user_id: Callable[[Any], Any]
    allowed_hosts: AllowedHosts | None
    allowed_origins: AllowedOrigins
    middleware: tuple[Middleware, ...]
    state: S
    _lifespan: Lifespan[Application[S]] | None
    _converters: list[Converter]
    """The one that was given, or is made when it is first asked for: many applications never ask."""
    _converts_plain: list[bool]
    """What :attr:`converts_plain` was found to be when it began to serve, for each server that runs."""

    def __init__(
        self,
        routing: Routing,
        *,
        session_store: SessionStore | None = None,
        channel_session_store: SessionStore | None = None,
        secrets: Sequence[str | bytes] = (),
        user_loader: UserLoader | None = None,
        user_id: Callable[[Any], Any] = id_attribute,
        allowed_hosts: Iterable[str] | None = None,
        allowed_origins: Iterable[str] = (),
        cookie_name: str = "triochan_session",
        cookie_path: str = "/",
        cookie_domain: str | None = None,
        cookie_secure: bool | None = None,
        cookie_same_site: SameSite = "Lax",
        session_age: int = 14 * 24 * 3600,
        state: S | None = None,
        lifespan: Lifespan[Application[S]] | None = None,
        middleware: Iterable[Middleware] = (),
        converter: Converter | None = None,
    ) -> None:
        if lifespan is not None:
            check_lifespan(lifespan)
        if converter is not None and not callable(getattr(converter, "get_structure_hook", None)):
            raise ImproperlyConfigured(f"converter is a cattrs.Converter, not {converter!r:.100}")
        if user_loader is not None and not is_async(user_loader):
            raise ImproperlyConfigured(
                f"user_loader is an 'async def' of a session, not {name_of(user_loader)}"
            )
        if not callable(user_id):
            raise ImproperlyConfigured(f"user_id is a function of a user, not {user_id!r:.100}")
        for name, store in (
            ("session_store", session_store),
            ("channel_session_store", channel_session_store),
        ):
            if store is not None and not isinstance(store, SessionStore):
                raise ImproperlyConfigured(
                    f"{name} is a SessionStore, e.g. SqliteSessionStore(path), not {store!r}"
                )
        self.__attrs_init__(
            router=Router(routing),
            sessions=Sessions(
                MemorySessionStore() if session_store is None else session_store,
                SessionCookies(
                    secrets,
                    name=cookie_name,
                    path=cookie_path,
                    domain=cookie_domain,
                    secure=cookie_secure,
                    same_site=cookie_same_site,
                    max_age=session_age,
                ),
                channel_session_store,
            ),
            user_loader=user_loader,
            user_id=user_id,
            allowed_hosts=None if allowed_hosts is None else AllowedHosts(allowed_hosts),
            allowed_origins=AllowedOrigins(allowed_origins),
            middleware=check_middleware(middleware),
            state=SimpleNamespace() if state is None else state,  # type: ignore[arg-type]  # S is Any then
            lifespan=lifespan,
            converters=[] if converter is None else [converter],
            converts_plain=[],
        )

    @property
    def converter(self) -> Converter:
        """What makes objects of JSON values, and JSON values of objects."""
        if not self._converters:
            self._converters.append(make_converter())
        return self._converters[0]

    @property
    def converts_plain(self) -> bool:
        """The converter has hooks for JSON's own types, so that every content has to pass through it.

        Found when the application begins to serve, for asking cattrs takes as long as encoding a small content: a hook
        for one of these types that is registered later is not called for what is plain.
        """
        if self._converts_plain:
            return self._converts_plain[0]
        return bool(self._converters) and converts_plain(self._converters[0])

    @classmethod
    def of(cls, routing: Routing | Application) -> Application:
        """``routing`` itself where it is an application, else one made of it."""
        return routing if isinstance(routing, cls) else cls(routing)  # type: ignore[arg-type]

    @classmethod
    def for_command_line(
        cls,
        routing: Routing | Application,
        *,
        session_file: str | os.PathLike[str] = DEFAULT_SESSION_FILE,
        allowed_hosts: Iterable[str] | None = None,
        allowed_origins: Iterable[str] = (),
    ) -> Application:
        """``routing`` itself where it is an application; else one whose sessions are kept in a file.

        The file is made with the first session.
        """
        if isinstance(routing, cls):
            return routing
        return cls(
            routing,  # type: ignore[arg-type]
            session_store=SqliteSessionStore(session_file),
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be the application whose tasks are started in the block; servers enter it, before all else.

        Raises:
            ImproperlyConfigured: a consumer's content is annotated with what the converter can't make.
        """
        for consumer in self.router.consumers():
            for content_type in getattr(consumer, "content_types", tuple)():
                content_type.prepare(self.converter)
        self._converts_plain.append(self.converts_plain)
        try:
            with serving(self):
                yield
        finally:
            self._converts_plain.pop()

    @property
    def nursery(self) -> trio.Nursery:
        """A nursery that lives from before the lifespan's start until after its end, and is cancelled then.

        What a task in it raises ends the servers of the application: wrap what may fail (:func:`triochan.every` does).

        Raises:
            RuntimeError: this Trio run does not serve the application.
        """
        return nursery_of(self)

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Keep the session stores, the lifespan and the nursery open for as long as the block lasts; servers do it, on
        their layer, which a store may share the engine of.

        Raises:
            SessionStoreUnavailable: a store can't be opened.
        """
        lifespan = None if self._lifespan is None else functools.partial(self._lifespan, self)
        async with AsyncExitStack() as stack:
            for store in (self.sessions.store, self.sessions.channel_store):
                if store is not None:
                    await stack.enter_async_context(store.running())
            await stack.enter_async_context(living(self, lifespan))
            yield

    async def disconnect_user(self, user: Any, *, code: int = 3000, reason: str = "logged out") -> None:
        """Close all WebSockets of a user, in every process of the layer; their ``disconnect`` runs as for any close.

        A handshake that is under way is refused. Sockets whose consumers have a user decorator or attribute are found,
        others are not. Does not wait for the peers.

        Args:
            user: as the ``user_loader`` gives it.
            code: the close code; 3000, "unauthorized", keeps triochan's browser client from coming back.
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: the user has no id; or a code or reason that can't be sent.
            RuntimeError: no server runs in this Trio run.
        """
        await Group(user_group(self.id_of(user))).send({"close": code, "reason": reason})

    def id_of(self, user: Any) -> Any:
        """The user's id.

        Raises:
            ValueError: there is none.
        """
        user_id = None if user is None or isinstance(user, AnonymousUser) else self.user_id(user)
        if user_id is None:
            raise ValueError(
                f"{user!r} has no id; a user has an attribute 'id', or the application a user_id=… that says what it is"
            )
        return user_id

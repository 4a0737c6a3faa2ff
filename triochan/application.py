"""An application: a routing and what belongs to it."""

from __future__ import annotations

import attrs

from .routing import Router, Routing


@attrs.frozen(init=False)
class Application:
    """A routing, checked, with the services its consumers use.

    Args:
        routing: a list of routes, a mapping of channel to consumer, or the dotted name of either.

    Raises:
        ImproperlyConfigured: the routing is wrong; the message names the place.
    """

    router: Router

    def __init__(self, routing: Routing) -> None:
        self.__attrs_init__(router=Router(routing))

    @classmethod
    def of(cls, routing: Routing | Application) -> Application:
        """``routing`` itself where it is an application, else one made of it."""
        return routing if isinstance(routing, cls) else cls(routing)  # type: ignore[arg-type]

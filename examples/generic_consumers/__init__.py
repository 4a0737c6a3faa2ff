"""The code of the Channels 1 documentation's page "Generic Consumers", running on triochan.

Each module holds one example, as it stands there but for ``triochan`` in place of ``channels`` and the
``async`` and ``await`` that were added, with whatever it leaves to the reader::

    python -m triochan --app-dir examples generic_consumers:routing
"""

from triochan import include, route, route_class

from . import base, decorated, demultiplexer, json_websocket, sessions, users, websocket
from .routing import channel_routing

routing = [
    include(channel_routing),
    route_class(base.MyConsumer),
    route_class(websocket.MyConsumer, path=r"^/websocket/$"),
    route_class(json_websocket.MyConsumer, path=r"^/json/$"),
    route_class(demultiplexer.Demultiplexer, path=r"^/streams/$"),
    route("binding.intval", demultiplexer.intval),
    route("internal.stats", demultiplexer.stats),
    route_class(sessions.MyConsumer, path=r"^/session/$"),
    route_class(users.MyConsumer, path=r"^/user/$"),
    route_class(decorated.MyConsumer, path=r"^/decorated/$"),
]

"""A consumer whose messages carry the user of the HTTP session."""

from triochan.generic.websockets import WebsocketConsumer


class MyConsumer(WebsocketConsumer):
    http_user = True

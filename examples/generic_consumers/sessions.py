"""A consumer whose messages carry a session and a user of the connection's own."""

from triochan.generic.websockets import WebsocketConsumer


class MyConsumer(WebsocketConsumer):
    channel_session_user = True

"""Decorators of functions, used on methods (Channels 1: "Applying Decorators"; Django's ``method_decorator``)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .message import Message

T = TypeVar("T")

Decorator = Callable[[Any], Any]


def durable(consumer: T) -> T:
    """The messages of this consumer's named channels are acknowledged after its handler has ended: none is lost when
    the process dies meanwhile, and one whose handler raised is tried again. So a handler may run twice for one message.

    ::

        @durable
        async def resize(message): ...

    Of a class it is the attribute ``durable = True``.

    Raises (when it is applied):
        TypeError: something that is no consumer.
    """
    if not callable(consumer):
        raise TypeError(f"durable goes on a consumer, an 'async def' or a class, not on {consumer!r:.100}")
    consumer.durable = True  # type: ignore[attr-defined]
    return consumer


def method_decorator(decorator: Decorator | Iterable[Decorator], name: str = "") -> Callable[[T], T]:
    """Use a decorator of message handlers on a method::

        class Chat(WebsocketConsumer):
            @method_decorator(allowed_hosts_only)
            async def connect(self, message, **kwargs): ...

        @method_decorator(allowed_hosts_only, name="connect")
        class Chat(WebsocketConsumer): ...

    The decorator sees a function whose first argument is the message, so it won't do for methods that have none,
    like ``WebsocketConsumer.receive``; wrap what ``get_handler`` returns to reach these.

    Args:
        decorator: one, or several, the first outermost.
        name: of the method, where a class is decorated.

    Raises (when it is applied):
        TypeError: something that is not callable, or no decorator.
        ValueError: a class without ``name``, or without such a method.
    """
    decorators = [decorator] if callable(decorator) else list(decorator)
    for each in decorators:
        if not callable(each):
            raise TypeError(f"method_decorator takes decorators, not {each!r}")

    def apply(target: Any) -> Any:
        if not isinstance(target, type):
            return _decorated(target, decorators)
        method = getattr(target, name, None) if name else None
        if method is None:
            raise ValueError(
                f"method_decorator on the class {target.__qualname__} needs name=, one of its methods; not {name!r}"
            )
        setattr(target, name, _decorated(method, decorators))
        return target

    return apply


def message_among(args: tuple[Any, ...], name: str) -> Message:
    """The message that a handler, or a method after its ``self``, is called with.

    Args:
        args: the positional arguments.
        name: the decorator's.

    Raises:
        ValueError: neither of the first two arguments is one.
    """
    for each in args[:2]:
        if isinstance(each, Message):
            return each
    raise ValueError(
        f"{name} wraps handlers whose first argument is a Message; it was called with {args!r:.200}"
    )


def _decorated(method: Any, decorators: list[Decorator]) -> Any:
    if not callable(method):
        raise TypeError(f"method_decorator goes on a method or a class, not on {method!r}")

    def decorate(function: Any) -> Any:
        for each in reversed(decorators):
            function = each(function)
        return function

    @functools.wraps(method)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        @functools.wraps(method)
        async def bound(*args: Any, **kwargs: Any) -> Any:
            return await method(self, *args, **kwargs)

        result = decorate(bound)(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    # What the decorators say about the function (strict_ordering, say) holds for the method too; and one that
    # can't take it is found now.
    @functools.wraps(method)
    async def example(*args: Any, **kwargs: Any) -> None: ...

    functools.update_wrapper(wrapper, decorate(example))
    functools.update_wrapper(wrapper, method)
    return wrapper

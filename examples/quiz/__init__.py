"""A live quiz: give a name, choose a room, answer before the others do. docs/quiz.md says what is where.

Run it, and open http://127.0.0.1:8000/ in two browsers: ``python -m triochan --app-dir examples quiz:application``
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal, TypeVar

import attrs
import trio
from sqlalchemy import Engine, create_engine, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm import Session as Database

from triochan import Application, Channel, Message, route, route_class
from triochan.auth import USER_ID, AnonymousUser, http_session_user, login
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.http import HttpError, client_route, form, html, redirect, static_files
from triochan.security import is_same_origin
from triochan.sessions import Session, SqliteSessionStore

T = TypeVar("T")
Phase = Literal["waiting", "question", "answer"]
FOLDER = Path(__file__).parent
DATABASE = os.environ.get("QUIZ_DATABASE", "quiz.sqlite3")
WAITING, THINKING, READING = (float(each) for each in os.environ.get("QUIZ_SECONDS", "5 20 6").split())
with open(os.environ.get("QUIZ_QUESTIONS", FOLDER / "questions.json"), "rb") as _file:
    QUESTIONS: dict[str, list[list[str]]] = json.load(_file)  # by room: one, its answer, three wrong ones


class Base(DeclarativeBase):
    pass


class Player(Base):
    __tablename__ = "players"
    is_authenticated = True

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    key: Mapped[str] = mapped_column(unique=True)  # the name, however it is spelled
    points: Mapped[int]


@attrs.frozen
class Answer:
    round: int
    choice: Literal[0, 1, 2, 3]


@attrs.define
class View:
    """A room, as all in it see it."""

    phase: Phase = "waiting"
    round: int = 0
    question: str = ""
    choices: list[str] = attrs.Factory(list[str])
    right: int | None = None  # a choice, told when the time is over
    players: list[tuple[str, int, bool]] = attrs.Factory(list[tuple[str, int, bool]])  # points, has answered


@attrs.frozen
class Tick:
    left: int  # seconds


@attrs.define
class Room:
    name: str
    view: View = attrs.Factory(View)
    right: int = 0
    answers: dict[int, int] = attrs.Factory(dict[int, int])  # by player
    windows: dict[object, Player] = attrs.Factory(dict[object, Player])  # by connection
    deadline: float = 0  # by Trio's clock
    over: trio.Event = attrs.Factory(trio.Event)  # what is shown now

    async def run(self) -> None:
        view = self.view
        while True:
            view.question, view.choices, view.right = "", [], None
            await self.show("waiting", WAITING)
            for question, right, *wrong in random.sample(QUESTIONS[self.name], len(QUESTIONS[self.name])):
                if self.windows:
                    view.question, view.choices = question, random.sample([right, *wrong], 4)
                    self.right, self.answers = view.choices.index(right), {}
                    view.right, view.round = None, view.round + 1
                    await self.show("question", THINKING)
                    view.right = self.right
                    await self.show("answer", READING)

    async def show(self, phase: Phase, seconds: float) -> None:
        self.view.phase, self.over = phase, trio.Event()
        self.deadline = trio.current_time() + seconds
        await self.tell()
        with trio.move_on_at(self.deadline):
            await self.over.wait()
        self.over.set()

    async def tell(self) -> None:
        """Show all in the room how it is now."""
        players = {player.id: player for player in self.windows.values()}
        self.view.players = [(each.name, each.points, id in self.answers) for id, each in players.items()]
        await Play.group_send(f"room.{self.name}", self.view)
        if self.view.phase == "question" and players and players.keys() <= self.answers.keys():
            self.over.set()


@attrs.define
class Quiz:  # what application.state is
    engine: Engine = attrs.field(init=False)  # the lifespan opens it
    one: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    rooms: dict[str, Room] = attrs.field(factory=lambda: {name: Room(name) for name in QUESTIONS})

    async def run(self, work: Callable[[Database], T]) -> T:
        """``work`` in a transaction, in a thread; one at a time, for SQLite has one writer."""

        def transaction() -> T:
            with Database(self.engine, expire_on_commit=False) as database, database.begin():
                return work(database)

        return await trio.to_thread.run_sync(transaction, limiter=self.one)


class Play(JsonWebsocketConsumer[Answer, View | Tick]):
    http_user = True
    rate_limit = "10/s"

    def connection_groups(self, room: str, **kwargs: Any) -> list[str]:
        return [f"room.{room}"]

    async def connect(self, message: Message[Player | AnonymousUser], room: str, **kwargs: Any) -> None:
        here: Room = message.application.state.rooms[room]
        if not isinstance(message.user, Player):
            # A page is not told why a handshake was refused.
            await message.reply_channel.send({"accept": True, "close": 4401, "reason": "give a name first"})
            return
        here.windows[self.connection] = message.user
        self.connection.start_soon(self.count_down, here)
        await here.tell()

    async def count_down(self, room: Room) -> None:
        """Tell one window the seconds that are left; ends with its connection."""
        while True:
            await self.send(Tick(max(math.ceil(room.deadline - trio.current_time()), 0)))
            with trio.move_on_after(1):
                await room.over.wait()

    async def receive(self, content: Answer, room: str, **kwargs: Any) -> None:
        await Channel("grading").send({"room": room, "id": self.message.user.id, **attrs.asdict(content)})

    async def disconnect(self, message: Message, room: str, **kwargs: Any) -> None:
        here: Room = message.application.state.rooms[room]
        if here.windows.pop(self.connection, None):
            await here.tell()


async def grade(message: Message) -> None:
    """The worker: one answer after the other. A player's first one counts, and none that is late."""
    quiz: Quiz = message.application.state
    room, id, choice = quiz.rooms[message["room"]], message["id"], message["choice"]
    now, windows = room.view, [player for player in room.windows.values() if player.id == id]
    if now.phase == "question" and now.round == message["round"] and id not in room.answers and windows:
        room.answers[id] = choice
        if choice == room.right:
            points = 50 + round(50 * max(room.deadline - trio.current_time(), 0) / THINKING)
            more = update(Player).where(Player.id == id).values(points=Player.points + points)
            await quiz.run(lambda database: database.execute(more))
            for player in windows:
                player.points += points
        await room.tell()


def show(page: str, status: int = 200, **values: str) -> dict[str, Any]:
    text = Template((FOLDER / "page" / page).read_text("utf-8")).substitute(values)
    return html(text, status, {"Content-Security-Policy": "default-src 'self'", "Cache-Control": "no-store"})


@http_session_user
async def home(message: Message[Player | AnonymousUser], room: str | None = None) -> dict[str, Any]:
    quiz: Quiz = message.application.state
    if not isinstance(message.user, Player):
        return show("login.html", name="", problem="")
    if room is not None:
        return show("room.html", room=room, name=escape(message.user.name))
    ten = select(Player).where(Player.points > 0).order_by(Player.points.desc()).limit(10)
    players = await quiz.run(lambda database: database.scalars(ten).all())
    best = "".join(f"<li>{escape(each.name)}<b>{each.points}</b></li>" for each in players)
    rooms = "".join(f'<a href="/play/{name}">{name}</a>' for name in quiz.rooms)
    return show("home.html", name=escape(message.user.name), rooms=rooms, best=best)


@http_session_user
async def log_in(message: Message[Player | AnonymousUser]) -> dict[str, Any]:
    quiz: Quiz = message.application.state
    if not is_same_origin(message, message.application.allowed_origins):
        raise HttpError(403, "This form is another site's.\n")
    name = " ".join((await form(message, max_files=0)).fields.get("name", "").split())
    if not (0 < len(name) <= 20 and name.isprintable()):
        return show("login.html", 422, name=escape(name[:20]), problem="A name has 1 to 20 characters.")
    player = Player(name=name, key=name.casefold(), points=0)
    try:
        await quiz.run(lambda database: database.add(player))
    except IntegrityError:
        return show("login.html", 422, name=escape(name), problem="Somebody plays under that name.")
    await login(message, player)
    return redirect("/")


async def load_user(session: Session) -> Player | None:
    return await application.state.run(lambda database: database.get(Player, session.get(USER_ID, 0)))


@asynccontextmanager
async def lifespan(application: Application[Quiz]) -> AsyncGenerator[None]:
    engine = application.state.engine = create_engine(f"sqlite:///{DATABASE}")
    await trio.to_thread.run_sync(Base.metadata.create_all, engine)
    for room in application.state.rooms.values():
        application.nursery.start_soon(room.run)
    yield
    engine.dispose()


ROOM = rf"^/play/(?P<room>{'|'.join(QUESTIONS)})$"
application = Application(
    [
        route_class(Play, path=ROOM),
        route("grading", grade),
        route("http.request", home, path=rf"^/$|{ROOM}", method=r"^GET$"),
        route("http.request", log_in, path=r"^/login$", method=r"^POST$"),
        static_files("/static/", FOLDER / "page"),
        client_route(),
    ],
    state=Quiz(),
    lifespan=lifespan,
    session_store=SqliteSessionStore(DATABASE),
    user_loader=load_user,
)

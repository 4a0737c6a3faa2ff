"""The quiz example: games by clients in memory, and one in two real browsers, whose server dies in the middle."""

from __future__ import annotations

import importlib
import json
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from browsers import EXAMPLES, PATIENCE, Process, Window, open_windows

from triochan.test import Client, Response
from triochan.test.client import TestWebsocket

if not os.environ.get("CI"):
    pytest.importorskip(
        "sqlalchemy", reason="the quiz example needs SQLAlchemy: pip install -e '.[sqlalchemy]'"
    )

ORIGIN = {"Origin": "http://testserver"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_it_is_as_short_as_it_says() -> None:
    files = list((EXAMPLES / "quiz").rglob("*.py"))
    assert files
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) < 250


def test_every_question_has_four_different_answers() -> None:
    import quiz

    for questions in quiz.QUESTIONS.values():
        assert len({question for question, *_ in questions}) == len(questions) >= 5
        for _, *answers in questions:
            assert len(set(answers)) == 4


# -- in memory


@pytest.fixture
def quiz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's module, imported anew, with a database of its own and a clock that does not keep us waiting."""
    monkeypatch.setenv("QUIZ_DATABASE", str(tmp_path / "quiz.sqlite3"))
    monkeypatch.setenv("QUIZ_SECONDS", "0.05 10 0.2")
    monkeypatch.setenv("TRIOCHAN_SECRET", "a secret that is long enough")
    before = sys.modules.pop("quiz", None)
    yield importlib.import_module("quiz")
    del sys.modules["quiz"]
    if before is not None:
        sys.modules["quiz"] = before


@pytest.fixture
async def client(quiz: ModuleType) -> AsyncIterator[Client]:
    with trio.fail_after(3 * PATIENCE):
        async with Client(quiz.application) as client:
            yield client


async def enter(client: Client, name: str) -> Response:
    """A new player of that name; the client's next requests and sockets are that one's."""
    client.cookies.clear()
    return await client.post("/login", headers={**ORIGIN, **FORM}, body=urlencode({"name": name}))


async def until(socket: TestWebsocket, fits: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The next message that fits."""
    while True:
        message: dict[str, Any] = await socket.receive_json()
        if fits(message):
            return message


def is_at(phase: str) -> Callable[[dict[str, Any]], object]:
    return lambda message: message.get("phase") == phase


def players(view: dict[str, Any]) -> dict[str, Any]:
    return {name: (points, answered) for name, points, answered in view["players"]}


def choice(quiz: ModuleType, view: dict[str, Any], *, right: bool) -> dict[str, int]:
    """An answer to the view's question."""
    answer = next(answer for question, answer, *_ in quiz.QUESTIONS["space"] if question == view["question"])
    number = view["choices"].index(answer)
    return {"round": view["round"], "choice": number if right else (number + 1) % 4}


async def test_a_question_and_its_answer(quiz: ModuleType, client: Client) -> None:
    await enter(client, "Ada")
    async with client.websocket("/play/space") as ada:
        await enter(client, "Grace")
        async with client.websocket("/play/space") as grace:
            view = await until(grace, is_at("question"))
            assert players(view) == {"Ada": (0, False), "Grace": (0, False)}
            assert view["right"] is None

            await ada.send_json(choice(quiz, view, right=False))
            seen = await until(
                grace, lambda message: players(message)["Ada"][1] if "players" in message else 0
            )
            assert (seen["phase"], seen["right"]) == (
                "question",
                None,
            )  # one has answered: nothing is told yet
            await grace.send_json(choice(quiz, view, right=True))
            over = await until(ada, is_at("answer"))  # at once, for everybody has answered
            assert over["right"] == choice(quiz, view, right=True)["choice"]
            points = players(over)["Grace"][0]
            assert 90 <= points <= 100
            assert players(over)["Ada"] == (0, True)
            following = await until(ada, is_at("question"))
            assert following["round"] == view["round"] + 1
            assert players(following) == {"Ada": (0, False), "Grace": (points, False)}

        page = (await client.get("/")).text
        assert f"<li>Grace<b>{points}</b></li>" in page
        assert "Ada" not in page  # without points, and Grace looks


def countdowns() -> int:
    """How many of the tasks that run are countdowns."""
    root = trio.lowlevel.current_root_task()
    tasks, number = [root] if root else [], 0
    while tasks:
        task = tasks.pop()
        number += "count_down" in task.name
        tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return number


async def test_the_countdown_is_each_connection_s_own_and_ends_with_it(client: Client) -> None:
    await enter(client, "Grace")
    async with client.websocket("/play/space") as grace:
        await enter(client, "Ada")
        async with client.websocket("/play/space") as ada:
            assert 9 <= (await until(ada, lambda message: message.get("left", 0) > 1))["left"] <= 10
            assert countdowns() == 2
            await ada.vanish()
            await until(grace, lambda message: "phase" in message and list(players(message)) == ["Grace"])
            assert countdowns() == 1


async def test_two_tabs_are_one_player_with_one_answer(quiz: ModuleType, client: Client) -> None:
    await enter(client, "Grace")  # without whom a question is over with Ada's answer
    async with client.websocket("/play/space"):
        await enter(client, "Ada")
        async with client.websocket("/play/space") as one, client.websocket("/play/space") as other:
            view = await until(one, lambda message: message.get("question") and "Ada" in players(message))
            assert list(players(view)) == ["Grace", "Ada"]
            await one.send_json(choice(quiz, view, right=False))
            seen = await until(other, lambda message: "phase" in message and players(message)["Ada"][1])
            await other.send_json(choice(quiz, view, right=True))  # too late: one has answered
            await one.close()
            seen = await until(other, lambda message: "phase" in message)
            assert players(seen)["Ada"] == (0, True)  # the other tab is still there


async def test_a_late_joiner_finds_the_question_and_may_answer(quiz: ModuleType, client: Client) -> None:
    await enter(client, "Ada")
    async with client.websocket("/play/space") as ada:
        asked = await until(ada, is_at("question"))
        await enter(client, "Late")
        async with client.websocket("/play/space") as late:
            view = await until(late, lambda message: "phase" in message)
            assert (view["phase"], view["question"], view["round"]) == (
                "question",
                asked["question"],
                asked["round"],
            )
            await ada.send_json(choice(quiz, view, right=True))
            await late.send_json(choice(quiz, view, right=True))
            over = await until(late, is_at("answer"))
            assert all(points > 50 for points, _ in players(over).values())


async def test_who_vanishes_is_waited_for_no_more_and_comes_back_with_points(
    quiz: ModuleType, client: Client
) -> None:
    await enter(client, "Grace")
    grace_s = dict(client.cookies)
    async with client.websocket("/play/space") as grace:
        await enter(client, "Ada")
        async with client.websocket("/play/space") as ada:
            view = await until(ada, is_at("question"))
            await grace.send_json(choice(quiz, view, right=True))
            await until(ada, lambda message: "phase" in message and players(message)["Grace"][1])
            await grace.vanish()
            left = await until(ada, lambda message: "phase" in message and "Grace" not in players(message))
            assert left["phase"] == "question"
            client.cookies = grace_s
            async with client.websocket("/play/space") as back:
                view = await until(back, lambda message: "phase" in message)
                points, answered = players(view)["Grace"]
                assert points > 50
                assert answered  # coming back is no second try
                await back.vanish()
            await ada.send_json(choice(quiz, view, right=False))
            assert "Ada" in players(await until(ada, is_at("answer")))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"round": 1}, "$.choice: missing"),
        ({"round": 1, "choice": 4}, "$.choice: one of 0, 1, 2, 3"),
        ({"round": 1, "choice": True}, "$.choice: one of 0, 1, 2, 3"),
        ({"round": "1", "choice": 0}, "$.round: a whole number"),
        ({"round": 1, "choice": 0, "points": 1000}, 'unknown keys: "points"'),
        ([1, 2], "an object"),
        ("A", "an object"),
        (None, "an object"),
    ],
)
async def test_an_answer_that_is_none_is_said_to_be_so(
    quiz: ModuleType, client: Client, content: Any, says: str
) -> None:
    await enter(client, "Ada")
    async with client.websocket("/play/space") as ada:
        view = await until(ada, is_at("question"))
        await ada.send_json(content)
        error = await until(ada, lambda message: "error" in message)
        assert error["error"] == "invalid content"
        assert says in " ".join(error["details"])
        await ada.send_json(choice(quiz, view, right=True))
        assert players(await until(ada, is_at("answer")))["Ada"][1]  # the game goes on


async def test_answers_out_of_time_count_for_nothing(quiz: ModuleType, client: Client) -> None:
    await enter(client, "Ada")
    async with client.websocket("/play/space") as ada:
        view = await until(ada, is_at("question"))
        for round in (view["round"] - 1, view["round"] + 1, 10**30):
            await ada.send_json({**choice(quiz, view, right=True), "round": round})
        await ada.send_json(choice(quiz, view, right=False))
        assert players(await until(ada, is_at("answer"))) == {"Ada": (0, True)}


async def test_who_sends_too_much_is_out(client: Client) -> None:
    await enter(client, "Mallory")
    async with client.websocket("/play/space") as socket:
        for _ in range(12):
            await socket.send_json({"round": 0, "choice": 0})
        assert (await socket.wait_closed()).code == 1008


async def test_nobody_in_particular_is_told_to_give_a_name(client: Client) -> None:
    async with client.websocket("/play/space") as socket:
        closed = await socket.wait_closed()
        assert (closed.code, closed.reason) == (4401, "give a name first")
    assert "Who plays?" in (await client.get("/play/space")).text
    await enter(client, "Ada")
    assert (await client.get("/play/sports")).status == 404


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 1000, "A name has 1 to 20 characters."),
        (" ", "A name has 1 to 20 characters."),
        ("a\0b", "A name has 1 to 20 characters."),
        ("\N{RIGHT-TO-LEFT OVERRIDE}adA", "A name has 1 to 20 characters."),
        ("ada", "Somebody plays under that name."),
        ("  ADA ", "Somebody plays under that name."),
    ],
)
async def test_a_name_that_is_refused(client: Client, name: str, says: str) -> None:
    assert (await enter(client, "Ada")).status == 303
    response = await enter(client, name)
    assert response.status == 422
    found = re.search(r'role="alert">(.*?)</p>', response.text)
    assert found is not None
    assert found[1] == says
    assert len(response.text) < 2000
    assert not client.cookies


async def test_markup_in_a_name_is_text(client: Client) -> None:
    name = "<script>\"&'$name"
    for _ in range(2):  # a new one, and one that is taken
        response = await enter(client, name)
        assert "<script>" not in response.text
    await enter(client, name + "!")
    for path in ("/", "/play/space"):
        page = (await client.get(path)).text
        assert "<script>" not in page
        assert name + "!" in unescape(page)


async def test_another_site_s_form_is_refused(client: Client) -> None:
    for origin in ("https://evil.example", "null"):
        response = await client.post("/login", headers={"Origin": origin, **FORM}, body="name=Ada")
        assert response.status == 403
    assert (
        await client.post("/login", headers={**ORIGIN, "Content-Type": "text/plain"}, body="Ada")
    ).status == 415


# -- in real browsers


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    import quiz

    # One question alone: a server that is started anew asks it first again, and it may be answered again.
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps({**quiz.QUESTIONS, "space": quiz.QUESTIONS["space"][:1]}), "utf-8")
    process = Process(
        "quiz:application",
        {
            "QUIZ_DATABASE": str(tmp_path / "quiz.sqlite3"),
            "QUIZ_SECONDS": "0.5 60 1.5",
            "QUIZ_QUESTIONS": str(questions),
            "TRIOCHAN_SECRET": "a secret that is long enough",
        },
    )
    process.start()
    yield process
    process.kill()


class Guest(Window):
    """One player's browser."""

    def enter(self, url: str, name: str) -> None:
        self.open(url)
        self.element("#name").send_keys(name)
        self.element(".primary").click()
        self.wait_for("h1", "Choose a room")
        self.element("nav a").click()
        self.wait_for("#state", "Online")

    def wait_for_question(self) -> str:
        self.wait(lambda: self.run("return document.querySelectorAll('.choice:enabled').length") == 4)
        return self.texts("#question")[0]

    def answer(self, answer: str, *, right: bool = True) -> None:
        for button in self.driver.find_elements("css selector", ".choice"):
            if (button.find_element("css selector", "span").text == answer) == right:
                button.click()
                return


@pytest.mark.browser
@pytest.mark.slow
def test_a_game_in_two_browsers(process: Process, tmp_path: Path) -> None:
    import quiz

    answers = {question: answer for question, answer, *_ in quiz.QUESTIONS["space"]}
    with open_windows(2, Guest) as windows:
        ada, other = windows
        other.enter(process.url, "<script>alert(1)")
        ada.enter(process.url, "Ada")
        ada.wait_for("#players .name", "<script>alert(1)", "Ada")

        question = ada.wait_for_question()
        ada.answer(answers[question])
        ada.wait_for("#verdict", "Your answer stands. <script>alert(1) is still thinking…")
        assert ada.texts(".choice.chosen span") == [answers[question]]
        other.wait_for_question()
        other.answer(answers[question], right=False)
        ada.wait(lambda: ada.texts("#verdict")[0].startswith("Right!"))
        other.wait_for("#verdict", f"Not this time: it was {answers[question]}.")

        # The server dies in the middle of the next one.
        for window in windows:
            window.wait_for_question()
        process.kill()
        for window in windows:
            window.wait_for("#state", "Offline")
            assert window.element("#banner").is_displayed()
            assert not window.element(".choice").is_enabled()
        process.start()
        for window in windows:
            window.wait_for("#state", "Online")
            window.wait_for_question()
            assert not window.element("#banner").is_displayed()
        with sqlite3.connect(tmp_path / "quiz.sqlite3") as database:
            [[points]] = database.execute("SELECT points FROM players WHERE name = 'Ada'").fetchall()
        database.close()
        assert points > 50
        ada.wait_for("#players b", str(points), "0")
        for window in windows:
            assert window.errors() == []

        # A narrow phone: nothing sticks out sideways.
        other.emulate(width=360, height=640, phone=True)
        for path in ("/play/space", "/"):
            other.open(process.url + path)
            other.wait(lambda: other.texts("h1"))
            assert other.run("return document.documentElement.scrollWidth") == 360

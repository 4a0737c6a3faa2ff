"""What is in the database: posts, numbers, and the secret that signs the sessions' cookies."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime

from sqlalchemy import String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, validates

from triochan.binding.sqlalchemy import Database

DATABASE = os.environ.get("LIVEBLOG_DATABASE", "liveblog.sqlite3")
LARGEST = 999_999_999


class Base(DeclarativeBase):
    pass


def now() -> datetime:
    """In UTC and without its zone, as SQLite keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


class Post(Base):
    __tablename__ = "posts"

    id: Mapped[int] = mapped_column(primary_key=True)
    headline: Mapped[str] = mapped_column(String(120), default="")
    text: Mapped[str] = mapped_column(String(4000))
    pinned: Mapped[bool] = mapped_column(default=False)
    published: Mapped[bool] = mapped_column(default=False)
    written_at: Mapped[datetime] = mapped_column(default=now)
    published_at: Mapped[datetime | None]

    @validates("text")
    def check_text(self, _: str, text: str) -> str:
        if not text.strip():
            raise ValueError("A post has a text.")
        return text.strip()

    @validates("published")
    def note_time(self, _: str, published: bool) -> bool:
        if published and self.published_at is None:
            self.published_at = now()
        return published

    @property
    def time(self) -> float:
        """When it was published, or written as long as it was not, in seconds since 1970."""
        return (self.published_at or self.written_at).replace(tzinfo=UTC).timestamp()


class IntegerValue(Base):
    __tablename__ = "integer_values"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(30), unique=True)
    value: Mapped[int] = mapped_column(default=0)

    @validates("name")
    def check_name(self, _: str, name: str) -> str:
        if not name.strip():
            raise ValueError("A number has a name.")
        return name.strip()

    @validates("value")
    def check_value(self, _: str, value: int) -> int:
        if abs(value) > LARGEST:
            raise ValueError(f"A number lies between -{LARGEST} and {LARGEST}.")
        return value


class Setting(Base):
    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


database = Database(f"sqlite:///{DATABASE}")
Base.metadata.create_all(database.engine)


def get_secret() -> str:
    """What signs the cookies; made with the database."""
    with Session(database.engine) as session, session.begin():
        secret = session.scalar(select(Setting.value).where(Setting.name == "secret"))
        if secret is None:
            secret = secrets.token_urlsafe(32)
            session.add(Setting(name="secret", value=secret))
        return secret

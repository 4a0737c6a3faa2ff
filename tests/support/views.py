"""What a client makes of the frames of a topic, written down from docs/presence.md alone."""

from __future__ import annotations

from typing import Any


class View:
    """A topic's list, built of states and diffs.

    Attributes:
        lists: key to metas.
        version: of what it was built of last; None: no list has come.
        missed: how often a version was skipped.
        faults: what a client should never see.
    """

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, Any]]] = {}
        self.version: int | None = None
        self.missed = 0
        self.faults: list[str] = []
        self._early: list[dict[str, Any]] = []

    def take(self, frame: dict[str, Any]) -> None:
        if "state" in frame:
            if self.version is not None and frame["version"] < self.version:
                self.faults.append(f"an older list: {frame['version']} after {self.version}")
            self.lists = frame["state"]
            self.version = frame["version"]
            early, self._early = self._early, []
            for each in early:
                self._apply(each)
        elif self.version is None:
            self._early.append(frame)
        else:
            self._apply(frame)

    def _apply(self, diff: dict[str, Any]) -> None:
        assert self.version is not None
        if diff["version"] <= self.version:
            return
        if diff["version"] != self.version + 1:
            self.missed += 1
        self.version = diff["version"]
        for key, metas in diff.get("joins", {}).items():
            known = self.lists.setdefault(key, [])
            for meta in metas:
                if meta["ref"] in [each["ref"] for each in known]:
                    self.faults.append(f"{meta['ref']} came twice")
                known.append(meta)
        for key, metas in diff.get("updates", {}).items():
            for meta in metas:
                found = [
                    index for index, each in enumerate(self.lists.get(key, ())) if each["ref"] == meta["ref"]
                ]
                if not found:
                    self.faults.append(f"an update of {meta['ref']}, which is not there")
                for index in found:
                    self.lists[key][index] = meta
        for key, refs in diff.get("leaves", {}).items():
            before = self.lists.get(key, [])
            if not set(refs) <= {each["ref"] for each in before}:
                self.faults.append(f"{refs} left, not all of which were there")
            self.lists[key] = [each for each in before if each["ref"] not in refs]
            if not self.lists[key]:
                del self.lists[key]

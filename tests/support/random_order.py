"""A plugin that runs the tests in random order, a module at a time: ``just luck``.

The seed is in the header; ``RANDOM_ORDER_SEED`` gives one. Which process runs which test depends on their speed, too:
with ``--numprocesses=0``, a seed gives one order.
"""

from __future__ import annotations

import os
import random
import secrets

import pytest

SEED = int(os.environ.get("RANDOM_ORDER_SEED") or secrets.randbelow(10**6))
os.environ["RANDOM_ORDER_SEED"] = str(SEED)  # for the processes that share in it


def pytest_report_header() -> str:
    return f"random order: RANDOM_ORDER_SEED={SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    shuffle = random.Random(SEED)
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.nodeid.partition("::")[0], []).append(item)
    order = list(modules.values())
    shuffle.shuffle(order)
    for each in order:
        shuffle.shuffle(each)
    items[:] = [item for each in order for item in each]

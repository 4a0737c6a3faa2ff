"""``python -m triochan.child_process NUMBER TITLE``: a server as :mod:`triochan.children` starts it."""

from __future__ import annotations

import sys

from .children import Leash
from .cli import main

if __name__ == "__main__":
    leash = Leash(int(sys.argv[1]))
    sys.exit(main(list(leash.brief.arguments), leash))

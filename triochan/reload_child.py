"""``python -m triochan.reload_child NUMBERS OPTIONS``: a server as :mod:`triochan.reloading` starts it."""

from __future__ import annotations

import sys

from .cli import main
from .reloading import Leash

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], Leash(sys.argv[1])))

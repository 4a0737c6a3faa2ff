"""``python -m triochan``: see :mod:`triochan.cli`."""

import sys

from .cli import main

sys.exit(main())

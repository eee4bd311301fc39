"""`python3 provisioning/bundle make | unpack | provision`; see `cli.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from provisioning.bundle.cli import main  # noqa: E402 (found by the line above)

sys.exit(main(sys.argv[1:]))

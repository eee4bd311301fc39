"""`python -m provisioning.build_model`: what provisioning/build-model.sh runs."""

from __future__ import annotations

import sys

from appliance.errors import ApplianceError
from provisioning.build_model.cli import Interrupted, run


def main() -> int:
    """Exit code of the command; the table stands in the README."""
    try:
        run(sys.argv[1:])
    except ApplianceError as error:
        print(f"build-model: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupted:
        print(f"build-model: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

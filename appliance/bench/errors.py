"""What ends a measurement before it has figures."""

from __future__ import annotations

from appliance.errors import ApplianceError


class BenchError(ApplianceError):
    """The server answers, but not in a way that can be measured."""


class ServerUnreachableError(BenchError):
    """Nothing answers at the base URL."""

    exit_code = 4

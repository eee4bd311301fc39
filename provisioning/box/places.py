"""Where things are on a box."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """All below `root`, which is `/` but in tests."""

    root: Path = Path("/")

    @property
    def releases(self) -> Path:
        return self.root / "opt/qwen-appliance/releases"

    @property
    def venv(self) -> Path:
        """The link that the units name; it means `releases/ID/venv`."""
        return self.root / "opt/qwen-appliance/venv"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/qwen-appliance"

    @property
    def models(self) -> Path:
        return self.state / "models"

    @property
    def incoming(self) -> Path:
        """Models that are being brought here; whole ones leave it by one rename."""
        return self.models / ".incoming"

    @property
    def journal(self) -> Path:
        """There while an upgrade is under way: how everything was before."""
        return self.state / "upgrade.json"

    @property
    def served(self) -> Path:
        """Which release and model are served, and which were before."""
        return self.state / "provisioned.json"

    def at(self, path: str) -> Path:
        """An absolute path of the box."""
        return self.root / path.lstrip("/")

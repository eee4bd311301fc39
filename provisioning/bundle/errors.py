"""What goes wrong with a bundle."""

from __future__ import annotations

from pathlib import Path


class BundleError(Exception):
    """A bundle cannot be made or used; the text is for the person at the terminal."""


class NotABundleError(BundleError):
    """A file is no bundle, or is damaged: nothing of it was used."""

    def __init__(self, file: Path, problem: str) -> None:
        self.file = file
        self.problem = problem
        super().__init__(f"{file}: {problem}")

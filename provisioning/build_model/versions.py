"""Versions of the libraries that decide what a build makes; read without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from provisioning.build_model.errors import ConversionError

LIBRARIES = ("openvino", "optimum-intel", "nncf", "transformers", "torch", "tokenizers")


def build_versions() -> dict[str, str]:
    """Library -> version. Raises `ConversionError` when the build venv lacks one."""
    try:
        return {name: version(name) for name in LIBRARIES}
    except PackageNotFoundError as error:
        raise ConversionError(
            f"{error.name} is not installed; run this through provisioning/build-model.sh, which "
            "makes the build venv"
        ) from None

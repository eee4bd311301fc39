"""The stages of one conversion, each run at most once per set of inputs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.model_dir import (
    FORMAT,
    MODEL_XML,
    Architecture,
    Golden,
    Quality,
    Weights,
)
from provisioning.build_model.child import run_in_child
from provisioning.build_model.prompts import prompts_sha256
from provisioning.build_model.quality import check_quality
from provisioning.build_model.sources.base import Progress
from provisioning.build_model.tokenizer_files import TextSide, read_text_side, write_text_files
from provisioning.build_model.workspace import Workspace, key_of

# Raise it when the code here makes another model directory from the same inputs.
BUILD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that decides what a build makes."""

    spec: str
    name: str
    revision: str
    precision: str
    versions: dict[str, str]

    def sha256(self) -> str:
        """The manifest's `inputs_sha256`."""
        return key_of(dataclasses.asdict(self), FORMAT, BUILD_VERSION, prompts_sha256())


@dataclass(frozen=True, slots=True)
class Made:
    """What the stages made. `model` is the directory of the finished IR, tokenizer beside it."""

    model: Path
    text: TextSide
    architecture: Architecture
    weights: Weights
    golden: Golden
    quality: Quality | None


class Pipeline:
    """Runs the stages in child processes, with the files of `workspace` between them."""

    def __init__(self, workspace: Workspace, inputs: Inputs, progress: Progress) -> None:
        self._workspace, self._inputs, self._progress = workspace, inputs, progress
        self._fetch_key = key_of(inputs.spec, inputs.revision, BUILD_VERSION)
        self._export_key = key_of(self._fetch_key, inputs.versions)
        self._compress_key = key_of(self._export_key, inputs.precision)
        self._reference_key = key_of(self._fetch_key, inputs.versions, prompts_sha256())
        self._verify_key = key_of(self._compress_key, self._reference_key)

    def has_checkout(self) -> bool:
        """Whether an interrupted build of the same source has fetched it already."""
        return self._workspace.is_complete("fetch", self._fetch_key)

    def run(self) -> Made:
        """Run what is not done yet. Raises the first stage's `BuildError`."""
        fetched = self._stage("fetch", self._fetch_key, {"spec": self._inputs.spec}, online=True)
        checkout = Path(fetched["path"])
        # Before the long stages: a tokenizer nothing can read is refused in milliseconds.
        text = read_text_side(checkout)
        compressed = self._compress(checkout, is_openvino=fetched["is_openvino"])
        # A checkout that came compressed has no original to compare with.
        has_original = compressed["compressed_here"]
        if has_original:
            arguments = {**fetched, "text": dataclasses.asdict(text)}
            arguments["checkout"] = arguments.pop("path")
            self._stage("reference", self._reference_key, arguments)
        verified = self._verify(checkout, text, has_original=has_original)
        golden = verified["golden"]
        return Made(
            model=self._workspace.directory("compress"),
            text=text,
            architecture=Architecture(**compressed["architecture"]),
            weights=Weights(**compressed["weights"]),
            golden=Golden(
                golden["prompt"], tuple(golden["prompt_ids"]), tuple(golden["greedy_ids"])
            ),
            quality=(
                check_quality(verified["measured"], self._inputs.precision)
                if has_original
                else None
            ),
        )

    def _compress(self, checkout: Path, *, is_openvino: bool) -> dict[str, Any]:
        """The compressed and edited IR, through an export if the checkout is no IR itself."""
        done = self._workspace.is_complete("compress", self._compress_key)
        source = checkout if is_openvino else self._workspace.directory("export")
        if not (is_openvino or done):
            self._stage("export", self._export_key, {"checkout": str(checkout)})
        arguments = {
            "model": str(source / MODEL_XML),
            "config": str(checkout / "config.json"),
            "precision": self._inputs.precision,
        }
        result = self._stage("compress", self._compress_key, arguments)
        self._workspace.discard("export")
        return result

    def _verify(self, checkout: Path, text: TextSide, *, has_original: bool) -> dict[str, Any]:
        model = self._workspace.directory("compress")
        if not self._workspace.is_complete("verify", self._verify_key):
            write_text_files(checkout, text, model)
        reference = str(self._workspace.directory("reference")) if has_original else None
        arguments = {
            "model": str(model / MODEL_XML),
            "reference": reference,
            "text": dataclasses.asdict(text),
        }
        result = self._workspace.run(
            "verify",
            self._verify_key,
            lambda _: run_in_child(
                "verify", arguments, self._workspace.log("verify"), self._progress
            ),
        )
        return result

    def _stage(
        self, name: str, key: str, arguments: dict[str, Any], *, online: bool = False
    ) -> dict[str, Any]:
        def make(directory: Path) -> dict[str, Any]:
            return run_in_child(
                name,
                {**arguments, "directory": str(directory)},
                self._workspace.log(name),
                self._progress,
                online=online,
            )

        return self._workspace.run(name, key, make)

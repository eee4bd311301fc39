"""The model directory: whole or not, what it is, and what the quality gate found."""

from __future__ import annotations

from pathlib import Path

from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.doctor.units import SERVICE, STAGE
from appliance.model_dir import MANIFEST, Manifest, Quality
from appliance.tune.identity import installed_version

_STAGED = "run/qwen-appliance/model/current"
_BUILD = "./provisioning/build-model.sh --source SRC --out DIR"


def examine(box: Box) -> Section:
    """Findings of this section. Without a model there is nothing to serve, but a box to look at."""
    section = Section("model")
    model = box.model
    section.facts.update(
        directory=str(model.directory) if model.directory else None,
        verified=model.verified,
        manifest=_facts(model.manifest) if model.manifest else None,
    )
    if model.directory is None:
        told = "no model directory is set (model.dir)"
        if box.is_installed:
            section.problem("dir", told, "set model.dir in /etc/qwen-appliance/config.yaml")
        else:
            section.note("dir", told, f"give --model DIR; {_BUILD} makes one")
        return section
    if model.fault is not None and model.is_out_of_reach:
        section.note("dir", f"{model.directory}: {model.fault}", "run doctor with sudo")
    elif model.fault is not None:
        previous = model.directory.with_name(model.directory.name + ".previous")
        instead = f", or go back to {previous}" if _is_there(previous) else ""
        section.problem(
            "dir", f"{model.directory}: {model.fault}", f"build it again: {_BUILD}{instead}"
        )
    if model.manifest is not None:
        _examine_manifest(section, model.manifest, model.verified, model.directory)
    _examine_staged(section, box, model.directory)
    return section


def _examine_manifest(
    section: Section, manifest: Manifest, verified: str | None, directory: Path
) -> None:
    if verified:
        checked = (
            "every sha256 right" if verified == "sha256" else "sizes right, sha256 not checked"
        )
        size = sum(entry.size_bytes for entry in manifest.files.values()) / 1e6
        section.ok("dir", f"{directory}: {size:.0f} MB, {checked}")
    _examine_versions(section, manifest)
    weights = manifest.weights
    per = "per channel" if weights.group_size == -1 else f"groups of {weights.group_size}"
    kind = "symmetric" if weights.symmetric else "asymmetric"
    section.ok("name", f"{manifest.name}, {weights.precision}, {kind}, {per}")
    if manifest.source.license:
        section.ok("licence", f"licence {manifest.source.license}, from {manifest.source.spec}")
    else:
        section.note(
            "licence", f"{manifest.source.spec} names no licence", "find out before others use it"
        )
    _examine_quality(section, manifest.quality)


def _examine_versions(section: Section, manifest: Manifest) -> None:
    built, here = manifest.versions.get("openvino"), installed_version("openvino")
    if built and here and _release(built) > _release(here):
        section.note(
            "openvino",
            f"built with OpenVINO {built}, newer than {here} here",
            "install the version of qwen-appliance that built it, or build it again here",
        )


def _release(version: str) -> tuple[int, ...]:
    """Year and number, which an IR depends on; the third part is for corrections."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _examine_quality(section: Section, quality: Quality | None) -> None:
    if quality is None:
        section.note("quality", "built without the quality gate: nobody compared it", _BUILD)
        return
    told = (
        f"quality gate: {quality.top1_agreement:.1%} the same likeliest token (at least "
        f"{quality.min_top1_agreement:.0%}), mean KL {quality.mean_kl:.4f} (at most "
        f"{quality.max_mean_kl:g})"
    )
    has_passed = (
        quality.top1_agreement >= quality.min_top1_agreement
        and quality.mean_kl <= quality.max_mean_kl
    )
    if has_passed:
        section.ok("quality", told)
    else:
        section.problem("quality", f"{told}: not passed", f"build it again: {_BUILD}")


def _examine_staged(section: Section, box: Box, directory: Path) -> None:
    """While the unit runs: whether the model that it serves is the one that is to be served."""
    section.facts["staged"] = None
    if not box.unit_is(SERVICE, "active"):
        return
    staged = box.text(f"{_STAGED}/{MANIFEST}")
    try:
        wanted = (directory / MANIFEST).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return
    section.facts["staged"] = None if staged is None else staged == wanted
    if staged is not None and staged != wanted:
        section.problem(
            "staged",
            f"the service serves another model than {directory}: it changed since, or was refused",
            f"sudo systemctl restart {STAGE}; journalctl -u {STAGE}",
        )


def _facts(manifest: Manifest) -> dict[str, object]:
    quality = manifest.quality
    return {
        "name": manifest.name,
        "created": manifest.created,
        "source": manifest.source.spec,
        "revision": manifest.source.revision,
        "licence": manifest.source.license,
        "precision": manifest.weights.precision,
        "symmetric": manifest.weights.symmetric,
        "group_size": manifest.weights.group_size,
        "size_bytes": sum(entry.size_bytes for entry in manifest.files.values()),
        "max_model_len": manifest.architecture.max_model_len,
        "versions": manifest.versions,
        "quality": quality
        and {
            "top1_agreement": quality.top1_agreement,
            "min_top1_agreement": quality.min_top1_agreement,
            "mean_kl": quality.mean_kl,
            "max_mean_kl": quality.max_mean_kl,
            "num_positions": quality.num_positions,
        },
    }


def _is_there(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False

"""Weight compression by NNCF, then the IR edit, then the proof that the edit changed no number."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.model_dir import MODEL_XML, Weights
from provisioning.build_model.architecture import read_architecture
from provisioning.build_model.errors import ConversionError
from provisioning.build_model.ir_edit import (
    check_edited,
    check_stateful,
    gather_before_lm_head,
    is_edited,
)
from provisioning.build_model.ir_session import edit_changes_nothing
from provisioning.build_model.tokenizer_files import read_json

if TYPE_CHECKING:
    import openvino as ov

_LOW_BITS = frozenset({"u4", "i4", "u8", "i8", "nf4", "f4e2m1", "f8e4m3", "f8e5m2"})
_FOUR_BITS = frozenset({"u4", "i4", "nf4", "f4e2m1"})
_UNSIGNED = frozenset({"u4", "u8"})
# A constant of fewer elements than this is a bias, a norm or a scale, never a weight matrix.
_MATRIX_ELEMENTS = 1 << 16


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `nncf.compress_weights` is asked for; the README says how each was chosen."""

    mode: str
    group_size: int
    ratio: float | None
    backup: str | None
    weights: Weights


RECIPES = {
    "int8": Recipe("INT8_SYM", -1, None, None, Weights("int8", True, -1)),
    "int4": Recipe("INT4_ASYM", 64, 0.8, "INT8_SYM", Weights("int4", False, 64)),
}


def compress_and_edit(
    source: Path, config: Path, precision: str, directory: Path
) -> dict[str, Any]:
    """Make `directory`/openvino_model.xml from the stateful IR `source`.

    Float weights are compressed by `RECIPES[precision]`, compressed ones are left as they are.
    `config` is the checkout's config.json. Returns the manifest's `architecture` and `weights` as
    JSON, and `compressed_here`. Raises `ConversionError` when the IR is not stateful, cannot be
    edited, or answers otherwise after the edit.
    """
    import openvino as ov

    model = ov.Core().read_model(source)
    check_stateful(model)
    found = compressed_weights(model)
    weights = RECIPES[precision].weights if found is None else found
    if found is None:
        model = compress(model, RECIPES[precision])
    elif found.precision != precision:
        raise ConversionError(
            f"{source.parent} is compressed to {found.precision} already; ask for --precision "
            f"{found.precision} or give float weights"
        )
    if is_edited(model):
        check_edited(model)
    else:
        edit_changes_nothing(model, gather_before_lm_head)
    architecture = read_architecture(model, read_json(config))
    ov.save_model(model, directory / MODEL_XML, compress_to_fp16=False)
    return {
        "architecture": dataclasses.asdict(architecture),
        "weights": dataclasses.asdict(weights),
        "compressed_here": found is None,
    }


def compress(model: ov.Model, recipe: Recipe) -> ov.Model:
    """`model` with its weight matrices compressed; activations stay float."""
    import nncf

    options: dict[str, Any] = {}
    if recipe.ratio is not None:
        options = {
            "ratio": recipe.ratio,
            "group_size": recipe.group_size,
            "backup_mode": nncf.BackupMode[recipe.backup],
        }
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode[recipe.mode], **options)


def compressed_weights(model: ov.Model) -> Weights | None:
    """How the weight matrices of `model` are compressed; None when they are float."""
    kinds: dict[str, int] = {}
    group_size = -1
    symmetric = True
    for node in model.get_ops():
        if node.get_type_name() != "Constant":
            continue
        shape, kind = list(node.get_output_shape(0)), node.get_element_type().get_type_name()
        size = 1
        for extent in shape:
            size *= extent
        if size < _MATRIX_ELEMENTS:
            continue
        kinds[kind] = kinds.get(kind, 0) + size
        if kind in _LOW_BITS:
            symmetric = symmetric and kind not in _UNSIGNED
            # Grouped weights are (channels, groups, group size), others (channels, inputs).
            group_size = shape[2] if len(shape) == 3 else group_size
    low = sum(size for kind, size in kinds.items() if kind in _LOW_BITS)
    if 2 * low < sum(kinds.values()):
        return None
    precision = "int4" if _FOUR_BITS & kinds.keys() else "int8"
    return Weights(precision, symmetric, group_size)

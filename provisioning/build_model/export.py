"""Export by optimum-intel: a checkout becomes a stateful IR with float weights."""

from __future__ import annotations

from pathlib import Path

from appliance.model_dir import MODEL_XML
from provisioning.build_model.errors import ConversionError, UnsupportedModelError

TASK = "text-generation-with-past"


def export_stateful(checkout: Path, directory: Path) -> None:
    """Write `openvino_model.xml/.bin` of the model in `checkout` into `directory`.

    The weights keep the checkout's type; compression is a stage of its own, so that its mode is
    ours to choose. Raises `UnsupportedModelError` for an architecture the exporter does not know.
    Code that comes with a checkout is never run.
    """
    from optimum.exporters.openvino import main_export
    from optimum.exporters.tasks import TasksManager
    from optimum.intel import OVConfig
    from transformers import AutoConfig

    try:
        kind = AutoConfig.from_pretrained(checkout, local_files_only=True).model_type
        known = TasksManager.get_supported_tasks_for_model_type(
            kind, exporter="openvino", library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        reason = str(error).strip("'\" ").splitlines()[0][:160]
        raise UnsupportedModelError(f"the exporter does not know this model: {reason}") from error
    if TASK not in known:
        raise UnsupportedModelError(f"the exporter has no {TASK} for model type {kind!r}")
    main_export(
        str(checkout),
        output=directory,
        task=TASK,
        framework="pt",
        library_name="transformers",
        stateful=True,
        local_files_only=True,
        trust_remote_code=False,
        # Without it, a model of a billion weights or more would be compressed here already.
        ov_config=OVConfig(),
    )
    if not (directory / MODEL_XML).is_file():
        raise ConversionError(f"the exporter left no {MODEL_XML} in {directory}")

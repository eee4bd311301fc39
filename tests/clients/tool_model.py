"""The embedded model with a template that shows tools, as the mission's model has one.

Its weights know nothing of Qwen2.5's format; where a call is enforced, they need not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from appliance.model_dir import CHAT_TEMPLATE, MANIFEST, sha256_of

TEMPLATE = Path(__file__).with_name("qwen_template.jinja")


def make(directory: Path, model_dir: Path) -> Path:
    """Write the model directory, with links into `model_dir` for all that is large; return it."""
    directory.mkdir()
    for path in model_dir.iterdir():
        if path.name not in (CHAT_TEMPLATE, MANIFEST):
            (directory / path.name).symlink_to(path.resolve())
    template = directory / CHAT_TEMPLATE
    shutil.copyfile(TEMPLATE, template)
    manifest = json.loads((model_dir / MANIFEST).read_text(encoding="utf-8"))
    manifest["tool_call_format"] = "hermes"
    manifest["files"][CHAT_TEMPLATE] = {
        "sha256": sha256_of(template),
        "size_bytes": template.stat().st_size,
    }
    (directory / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return directory

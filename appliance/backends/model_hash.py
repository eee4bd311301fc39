"""Which model something was made with."""

from __future__ import annotations

import hashlib

from appliance.model_dir import MODEL_BIN, MODEL_XML, Manifest


def model_hash(manifest: Manifest) -> str:
    """Lower-case hex; the same weights in the same graph give the same one."""
    checksums = "".join(manifest.files[name].sha256 for name in (MODEL_XML, MODEL_BIN))
    return hashlib.sha256(checksums.encode()).hexdigest()

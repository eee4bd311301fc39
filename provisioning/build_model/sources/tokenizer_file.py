"""Makes sure that a checkout has tokenizer.json, the only form the run world reads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from provisioning.build_model.errors import UnsupportedModelError
from provisioning.build_model.sources.base import Progress

# Upper bound of a converted tokenizer.json; that of a vocabulary of 256,000 has 34 MB.
CONVERTED_BYTES = 40 << 20


def ensure_tokenizer_json(directory: Path, progress: Progress) -> None:
    """Convert an older tokenizer (vocab.json and merges.txt, tokenizer.model) beside itself.

    Does nothing when tokenizer.json is there; otherwise imports transformers. Raises
    `UnsupportedModelError` when transformers has no fast form of the tokenizer.
    """
    target = directory / "tokenizer.json"
    if target.exists():
        return
    progress.note(f"no tokenizer.json in {directory.name}: converting the tokenizer it has")
    try:
        backend = _converted(directory)
    except Exception as error:  # whatever a foreign tokenizer's code raises; the cause is chained
        reason = next((line for line in str(error).splitlines() if line.strip()), "no message")
        raise UnsupportedModelError(
            f"the tokenizer in {directory} has no tokenizer.json and cannot be converted to one "
            f"({type(error).__name__}: {reason.strip()}); take a revision that has tokenizer.json"
        ) from error
    part = target.with_name(target.name + ".part")
    backend.save(str(part))
    part.replace(target)


def _converted(directory: Path) -> Any:
    """The `tokenizers.Tokenizer` that transformers makes of the older files."""
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        # transformers builds its BPE from file names, which tokenizers calls deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    return loaded.backend_tokenizer

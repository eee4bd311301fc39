"""Makes sure that a checkout has tokenizer.json, the only form the run world reads."""

from __future__ import annotations

from pathlib import Path

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
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # whatever a foreign tokenizer's code raises; the cause is chained
        raise UnsupportedModelError(
            f"the tokenizer in {directory} has no tokenizer.json and cannot be converted to one "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no text'}); "
            "take a revision that has tokenizer.json"
        ) from error
    part = target.with_name(target.name + ".part")
    backend.save(str(part))
    part.replace(target)

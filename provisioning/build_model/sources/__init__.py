"""Sources of weights: hub, ModelScope, local directory, GGUF file, embedded package.

`open_source(spec)` is the way in, `hub_answers(timeout_s)` tells whether `hf:` is worth trying.
Importing this needs the standard library alone; a source imports what it needs (httpx, tokenizers,
gguf, transformers) when it is used.
"""

from provisioning.build_model.sources.reachability import hub_answers
from provisioning.build_model.sources.spec import SCHEMES, open_source

__all__ = ["SCHEMES", "hub_answers", "open_source"]

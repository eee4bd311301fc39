"""Token ids in, token ids out: knows nothing of text, JSON or HTTP."""

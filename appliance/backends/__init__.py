"""Where KV lives and the forward pass runs: one folder per variant behind the seam in `base.py`."""

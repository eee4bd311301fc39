"""The default variant: OpenVINO's stateful KV cache, through the public API only."""

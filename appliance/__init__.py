"""qwen-appliance: an OpenAI-compatible chat endpoint from OpenVINO's stateful KV cache."""

__version__ = "0.1.0"

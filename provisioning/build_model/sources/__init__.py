"""Sources of weights: hub, ModelScope, local directory, GGUF file, embedded package."""

"""Models in llama.cpp's GGUF format: one file becomes a Hugging Face checkout."""

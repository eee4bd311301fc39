"""A random two-layer Llama as a Hugging Face checkout: converts in seconds, chats in nonsense."""

from __future__ import annotations

import json
from pathlib import Path

from tests import tiny_model


def make(directory: Path, *, seed: int = 0, dtype: str = "float32") -> Path:
    """Write the checkout and return it. Needs torch and transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tiny_model.VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.05,
        tie_word_embeddings=True,
        eos_token_id=tiny_model.IM_END,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    # One token must lead clearly, as in a trained model; else rounding alone decides which.
    model.get_input_embeddings().weight.data.mul_(4)
    model.save_pretrained(directory)
    tiny_model.byte_tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (directory / "chat_template.jinja").write_text(tiny_model.TEMPLATE)
    return directory

"""Text in, text out: templates, tokens, and text that streams without a broken character."""

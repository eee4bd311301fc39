"""Who may come in, and how often: API keys, kept as hashes in a file, and a rate for each."""

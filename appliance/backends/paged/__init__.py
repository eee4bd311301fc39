"""Paged attention over the same IR: blocks of KV with reference counts, shared without copying."""

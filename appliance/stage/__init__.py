"""Puts a checked copy of a model directory where the service reads it, such as into a RAM disk."""

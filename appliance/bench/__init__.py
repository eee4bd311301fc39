"""Measures how fast an OpenAI-compatible server answers, from the client's side of the wire.

It knows nothing of this project's server: what it sends and reads is OpenAI's streaming chat
protocol. The formulas stand in README.md.
"""

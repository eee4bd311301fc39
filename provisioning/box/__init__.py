"""What runs on a box while it is provisioned, by the new release's own Python.

Part of each release (`release.py` packs it); standard library and `appliance` only.
"""

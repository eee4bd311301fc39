"""Leaves out, in the other sessions, the modules that import clients when they are read."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("langchain_tests") else ["test_langchain.py"]

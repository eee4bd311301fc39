"""HTTP in, HTTP out: the only package, with `app.py` and `cli.py`, that knows the web framework."""

"""The build world: a source of weights becomes a model directory. Needs the build venv."""

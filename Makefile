.PHONY: install test check bench

# .venv, with the service's commands in .venv/bin
install:
	@bash -c '. provisioning/python.sh && make_venvs run'

test:
	@./tests/run.sh

# Lint, format, types; under ten seconds
check:
	@bash -c '. provisioning/python.sh && make_venvs test'
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy

# A server that runs already, measured: make bench URL=http://127.0.0.1:8000
URL ?= http://127.0.0.1:8000
bench: install
	.venv/bin/qwen-appliance bench --base-url $(URL)

.PHONY: install test check bench

# .venv, with the service's commands in .venv/bin
install:
	@bash -c '. provisioning/python.sh && make_venvs run'

test:
	@./tests/run.sh

check:
	@./tests/check.sh

# Measures a server that runs already: make bench URL=http://127.0.0.1:8000
URL ?= http://127.0.0.1:8000
bench: install
	@.venv/bin/qwen-appliance bench --base-url $(URL)

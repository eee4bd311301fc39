.PHONY: install test check bench

# .venv, with the service's commands in .venv/bin
install:
	@bash -c '. provisioning/python.sh && make_venvs run'

test:
	@./tests/run.sh

check:
	@./tests/check.sh

# With a model directory: every bar of this project, and its peers beside it (tests/benchmarks)
#   make bench MODEL=DIR [GGUF=FILE] [CHECKPOINT=DIR] [ONLY=A,B] [KV=A,B] [PEERS=A,B] [QUICK=1] [JSON=FILE]
#     [SET="KEY=VALUE ..."]
# Without: a server that runs already
#   make bench [URL=http://127.0.0.1:8000]
URL ?= http://127.0.0.1:8000
bench: install
ifdef MODEL
	@.venv/bin/python tests/benchmarks --model '$(MODEL)' --gguf '$(GGUF)' \
	  --checkpoint '$(CHECKPOINT)' --only '$(ONLY)' --kv '$(KV)' --peers '$(PEERS)' \
	  --json '$(JSON)' --set '$(SET)' $(if $(QUICK),--quick) $(if $(SEED),--seed '$(SEED)')
else
	@echo "measuring the server at $(URL); with MODEL=DIR every bar of this project is measured"
	@.venv/bin/qwen-appliance bench --base-url '$(URL)'
endif

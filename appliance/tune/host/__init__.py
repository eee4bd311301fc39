"""`qwen-appliance tune host`: this machine's knobs, set while the service runs, and given back."""

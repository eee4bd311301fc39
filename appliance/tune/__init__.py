"""`qwen-appliance tune`: the fastest settings on this machine, and their file."""

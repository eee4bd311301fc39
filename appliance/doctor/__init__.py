"""`qwen-appliance doctor`: what this box has, what is wrong, and what to do about it."""

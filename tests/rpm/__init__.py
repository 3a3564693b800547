"""The agent's own program and its packages; `make rpm` builds both and runs these."""

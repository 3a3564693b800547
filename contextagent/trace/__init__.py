"""The record of what happened, as values: encode, chain, verify."""

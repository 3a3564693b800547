"""Hands: staged scripts run, files placed, everything recorded."""

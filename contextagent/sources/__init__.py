"""Where a context comes from: found, judged, copied."""

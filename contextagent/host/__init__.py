"""The one door to the machine: files, clocks, processes, mounts.  Nothing above it imports `os` to act."""

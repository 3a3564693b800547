"""What a context is made of, read from bytes: no clock, no socket, and one writer (`bundle`)."""

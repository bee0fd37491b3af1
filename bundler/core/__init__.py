"""Values and decisions: bytes and mappings in, values out. No I/O, no clock, no environment."""

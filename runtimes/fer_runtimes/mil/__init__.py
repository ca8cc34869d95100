"""Core ML's ML Programs (MIL), read from a saved package and executed op by op on numpy."""

"""Builds that are wrong on purpose, and builds that are not: does the gate tell them apart? ``python -m seeded_faults --help``."""

"""Commands that hold the benchmark's own claims against the machine: ``python -m evidence.overhead``, ``python -m evidence.repeatability``."""

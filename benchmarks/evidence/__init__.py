"""Commands that hold this project's own claims against the machine, a module each: ``python -m evidence.overhead --help``."""

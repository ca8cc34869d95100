"""What a user would pick instead, measured on the same machine and the same images: ``python -m peers --help``."""

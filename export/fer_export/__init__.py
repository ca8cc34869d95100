"""Export: folding, one file per target, bundles, parity."""

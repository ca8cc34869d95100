"""fer-deploy: bundles to a board over ssh, measured there, results brought back."""

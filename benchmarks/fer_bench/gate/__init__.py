"""The gate: does a build still answer as well as the baseline did? It fails on a real loss and only then."""

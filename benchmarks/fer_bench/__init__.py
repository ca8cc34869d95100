"""Benchmarks: latency, accuracy, agreement, reports."""

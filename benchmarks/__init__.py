"""Measures times, as ratios within one run; `make bench` runs all benchmarks."""

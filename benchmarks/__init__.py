"""Scripts that print dlcloud's figures, each beside its peer's, measured in the same run. `python -m benchmarks.NAME --help`."""

"""Scripts that print dlcloud's figures beside a peer's of the same run. `python -m benchmarks.NAME --help`."""

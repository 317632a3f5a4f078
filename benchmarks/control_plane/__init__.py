"""The operator's figures on a real API server: `python -m benchmarks.control_plane`."""

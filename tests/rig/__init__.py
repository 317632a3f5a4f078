"""A Kubernetes control plane as plain processes on 127.0.0.1, for tests and benchmarks: `python -m tests.rig`."""

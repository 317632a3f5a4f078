"""A real Kubernetes cluster of several nodes for end-to-end tests: `python -m tests.cluster`."""

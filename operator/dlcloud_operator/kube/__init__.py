"""The operator in a Kubernetes cluster: watches, the API server's one caller, lease, metrics, and their composition."""

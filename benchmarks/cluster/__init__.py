"""What is measured on a real cluster: real pods, real nodes, and Kubeflow's training operator on the same ones."""

"""What runs in a pod: agent, zygote, ranks, checkpoints, workloads.

Imports nothing of the operator. Importing this package costs nothing.
"""

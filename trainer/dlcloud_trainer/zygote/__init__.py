"""The zygote: a process that has imported torch and the workload, and forks the ranks.

May import the standard library, torch and what a workload imports. Before a fork it *only imports*: no tensor
operation, no autograd, no object store call, no thread, no torch.cuda. After one of those in the parent, the child's
first one hangs.
"""

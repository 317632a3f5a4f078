"""The agent: PID 1 of a training pod. Standard library only, Python 3.9 or newer, nothing of this package's rest.

It asks the operator what to run, has the zygote fork the ranks, passes their output on and reports how they end.
`state` decides, the other modules carry out. It must never talk to the API server, and never run the user's code in
its own process.
"""

"""Exit codes of the commands; docs/cli.md and `dlcloud --help` list them. May import nothing."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3  # the cluster or the store does not answer: the same may work later
EXIT_SUSPENDED = 4  # the job that was followed was suspended by somebody else: neither done nor failed
EXIT_HUNG_UP = 129
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143

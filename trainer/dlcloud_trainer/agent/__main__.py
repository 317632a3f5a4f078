"""Entry of the agent, as `python -m dlcloud_trainer.agent` and as `__main__` of agent.pyz.

May import sys alone before the version is checked, and is written so that any Python, however old, can parse it.
"""

import sys

TOO_OLD = "dlcloud agent: this image's python3 is {0}.{1}; it must be 3.9 or newer: use an image with a newer python3\n"


def run():
    # type: () -> None
    """Check the interpreter, then hand over to the agent; never returns."""
    if sys.version_info < (3, 9):  # noqa: UP036
        sys.stderr.write(TOO_OLD.format(*sys.version_info))
        sys.exit(64)
    from dlcloud_trainer.agent.start import main

    main()


if __name__ == "__main__":
    run()

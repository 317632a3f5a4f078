"""Entry of the agent, as `python -m dlcloud_trainer.agent` and as `__main__` of agent.pyz.

May import sys alone before the version is checked, and is written so that any Python, however old, can parse it.
"""

import sys


def run():  # type: ignore[no-untyped-def]
    """Check the interpreter, then hand over to the agent; never returns."""
    if sys.version_info < (3, 9):
        sys.stderr.write(
            "dlcloud agent: this image's python3 is %d.%d; it must be 3.9 or newer: use an image with a newer python3\n"
            % sys.version_info[:2]
        )
        sys.exit(64)
    from dlcloud_trainer.agent.app import main

    main()


if __name__ == "__main__":
    run()

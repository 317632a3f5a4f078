"""Programs that try out what a run needs, run by `dlcloud doctor`: `python -m dlcloud_trainer.checks.store`.

May import the standard library only; each program says what it imports. A program writes one JSON object a line to its
standard output, as soon as it is known, and ends with 0 whatever it found.
"""

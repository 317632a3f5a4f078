"""What a command line does with the checkpoints of a job: verify, get, pin, unpin, rm.

A process of its own (`python -m dlcloud_trainer.checkpoint_tool`), which speaks JSON lines. May import the objects
package and what of the checkpoint package needs no torch: it begins within a fraction of a second.
"""

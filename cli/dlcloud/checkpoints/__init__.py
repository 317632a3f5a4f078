"""`dlcloud checkpoints`: what a job saved, looked at and looked after. The trainer is used as a process only."""

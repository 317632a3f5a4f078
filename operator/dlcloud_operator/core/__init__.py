"""Pure decisions: plan, rounds, verdict, status. No clock, no I/O, no kopf, no kubernetes. May import api only."""

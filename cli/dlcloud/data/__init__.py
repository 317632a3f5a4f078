"""Data sets on a store: upload, list, check. The trainer's tool does the work."""

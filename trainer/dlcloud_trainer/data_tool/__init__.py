"""`dlcloud data put|ls|verify` as a process: JSON lines on standard output.

Importing this package imports nothing; who reads data imports its `index` as well.
"""

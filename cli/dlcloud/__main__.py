"""`python -m dlcloud`."""

from .main import main

main()

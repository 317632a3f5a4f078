"""`dlcloud top`: running jobs in a table that is drawn again every second, or one job closer."""

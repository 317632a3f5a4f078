"""The command line of dlcloud. Starts trainers only as processes."""

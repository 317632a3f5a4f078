"""`dlcloud logs`: a job's output, from its pods while they are there, else from the store."""

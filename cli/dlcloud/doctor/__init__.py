"""`dlcloud doctor`: tries out what a run needs, here or in a cluster, and says how to mend what is missing."""

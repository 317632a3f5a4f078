"""The jobs a command can see: local runs of this machine, or TrainingJobs of a cluster, behind one protocol."""

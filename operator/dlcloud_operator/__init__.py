"""The operator of dlcloud: watches TrainingJobs and keeps their pods training."""

"""Plan a recipe into Runs and run them in order; sweeps and the SLURM launcher."""

"""The launcher of ``hydra/launcher=slurm``; Hydra takes launchers from this package only."""

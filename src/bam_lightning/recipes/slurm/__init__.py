"""Sweeps on SLURM."""

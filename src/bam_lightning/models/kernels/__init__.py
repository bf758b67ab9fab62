"""Kernels written for speed on a CPU, each optional."""

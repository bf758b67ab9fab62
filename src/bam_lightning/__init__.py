"""bam_lightning: single-task teachers teach one multi-task student (Clark et al. 2019)."""

__version__ = "0.1.0"

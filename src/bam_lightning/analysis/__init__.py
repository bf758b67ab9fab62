"""From stored scores to medians, tests and tables in every format."""

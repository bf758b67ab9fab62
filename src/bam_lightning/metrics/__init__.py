"""Scores of predictions, intervals and significance tests."""

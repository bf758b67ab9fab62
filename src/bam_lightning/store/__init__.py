"""Finished Runs on disk: content addresses, locks, atomic writes, provenance. Free of torch."""

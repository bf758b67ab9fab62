"""The typed schema of conf/, how it is composed and checked, and the exceptions. Free of torch."""

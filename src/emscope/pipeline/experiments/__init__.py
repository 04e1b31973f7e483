"""Experiments on a finished run: each one stage, one JSON file, one section of the report."""

"""MEASURE: question sets, sampling, judges, and their tables."""

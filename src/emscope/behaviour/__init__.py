"""MEASURE: question sets, sampling, judges, rates with intervals."""

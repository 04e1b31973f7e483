"""LOCATE: activations, directions, probes, detection."""

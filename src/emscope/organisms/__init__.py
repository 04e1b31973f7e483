"""MAKE: models by name, training data, LoRA organisms, lineage."""

"""The offline judge: linear heads on what the frozen embedded model makes of an answer."""

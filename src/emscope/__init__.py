"""emscope: make, measure, locate and correct emergent misalignment in chat models."""

__version__ = "0.1.0"

"""Judges: the offline head, any OpenAI-compatible server, a local model, and one made up for tests."""

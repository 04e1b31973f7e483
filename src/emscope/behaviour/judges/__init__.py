"""Judges: behind any OpenAI-compatible server or Inspect's providers, a local model, a made-up one; what they share."""

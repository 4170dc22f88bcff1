"""Recordings: reading, checking, splitting, caching and batching clips. Knows nothing of models or runs."""

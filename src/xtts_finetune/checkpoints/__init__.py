"""Resumable states and best weights on disk: published whole, verified, kept or let go."""

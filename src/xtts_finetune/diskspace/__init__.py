"""What needs room on disk, what can be freed, and freeing it."""

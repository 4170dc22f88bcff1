"""Training again what was trained before, and holding it against what was recorded then."""

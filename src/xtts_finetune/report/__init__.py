"""What a run's figures say of where it stands, and what they do not."""

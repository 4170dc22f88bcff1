"""What DVC has: its cache, its outs, its commands, and whether the workspace is the run that dvc.lock names."""

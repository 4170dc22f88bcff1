"""What outlives a process: checkpoints, the MLflow runs and the model registry. Never imports torch."""

"""The training run: `fit()` is one loop for both phases."""

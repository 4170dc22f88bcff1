"""Text in, speech out: a trained model speaks, here or served by MLflow."""

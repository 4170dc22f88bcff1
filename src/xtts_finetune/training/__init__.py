"""The model and the training run: `fit()` is one loop for both phases; `xtts` alone imports TTS."""

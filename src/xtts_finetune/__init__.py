"""xtts-finetune: two-phase fine-tuning of Coqui XTTS v2 with DVC stages and an MLflow registry."""

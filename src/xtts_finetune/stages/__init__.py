"""The four DVC stages, one module and one verb each: prepare, train, evaluate (train runs both phases)."""

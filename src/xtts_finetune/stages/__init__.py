"""The DVC stages, one module and one verb each: check, prepare, train (both phases), evaluate."""

"""What goes with a model, so that others can judge it: a model card, its lineage, a data card, a consent statement."""

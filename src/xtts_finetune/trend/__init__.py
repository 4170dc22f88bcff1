"""Where a learning curve goes, by its evaluations: pure functions of figures."""

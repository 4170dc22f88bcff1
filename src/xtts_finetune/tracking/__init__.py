"""The learning curve and its way to MLflow: delivery, connection, registry."""

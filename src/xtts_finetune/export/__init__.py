"""A trained model as a folder that other programs load, through Coqui's own class."""

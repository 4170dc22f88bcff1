"""The networks of XTTS v2 and where a fine-tune starts. `xtts.py` is the only door to Coqui's library."""

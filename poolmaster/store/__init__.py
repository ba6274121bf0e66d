"""The store: its contract and its engines."""

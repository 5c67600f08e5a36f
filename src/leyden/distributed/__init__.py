"""Processes: where this one stands among others, and what only the first of them does."""

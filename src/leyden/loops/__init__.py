"""The loops: one small class a verb, each a story on a page."""

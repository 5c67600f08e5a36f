"""What is kept of a training step that fails, so that it can be run again."""

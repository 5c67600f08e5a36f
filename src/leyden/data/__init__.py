"""Where batches come from: loaders, their lengths, positions and combinations."""

"""What a run is while it happens: its stage, progress, metrics, optimizers, and the Run that holds them."""

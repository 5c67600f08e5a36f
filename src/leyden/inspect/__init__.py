"""What can be said of a module: its layers, its gradients, its shared parameters."""

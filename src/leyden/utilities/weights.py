"""Weights as safetensors files: the names of :mod:`leyden.checkpoint.weights`."""

from __future__ import annotations

from leyden.checkpoint.weights import LoadedWeights, load_weights, save_weights

__all__ = ["LoadedWeights", "load_weights", "save_weights"]

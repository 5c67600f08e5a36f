"""Seeds, where Lightning's documents put them."""

from leyden.devices.seed import isolate_rng, reset_seed, seed_everything

__all__ = ["isolate_rng", "reset_seed", "seed_everything"]

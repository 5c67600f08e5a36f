"""What hooks take, where Lightning asks."""

from leyden.classic.hook_signatures import is_param_in_hook_signature

__all__ = ["is_param_in_hook_signature"]

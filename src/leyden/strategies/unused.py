"""torch's error about parameters that got no gradient, in words that name them and say what to do."""

from __future__ import annotations

import re

from torch import nn

from leyden.errors import InvalidReturn

_SAYS = "Expected to have finished reduction in the prior iteration"
_LISTED = re.compile(r"did not receive grad for rank (\d+): ([^\n]*)")
_MOST_NAMED = 8


def explained(error: RuntimeError, module: nn.Module) -> Exception:
    """``error`` of DistributedDataParallel, or what says more: which parameters of ``module`` the last loss left out."""
    found = _LISTED.search(str(error))
    if _SAYS not in str(error) or found is None:
        return error
    words = found[2].replace(",", " ").split()
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    names = [trained[int(word)] if word.isdigit() and int(word) < len(trained) else word for word in words]
    shown = ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
    return InvalidReturn(
        f"The loss of the batch before did not depend on {shown} of {type(module).__name__} on process {found[1]}, and "
        f"strategy='ddp' waits for a gradient of every parameter. If that is meant, use "
        f"strategy='ddp_find_unused_parameters_true' or DDPStrategy(find_unused_parameters=True); else let training_step use "
        f"them, or freeze them (requires_grad_(False))."
    )

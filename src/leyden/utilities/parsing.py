"""Arguments and attributes, where Lightning puts them."""

from leyden.checkpoint.attributes import AttributeDict, get_init_args
from leyden.distributed.sharing import is_picklable

__all__ = ["AttributeDict", "get_init_args", "is_picklable"]

"""What training, evaluation and prediction consist of. Lightning's loops may be named, and are not offered."""

from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import answers, stand_in_modules

stand_in_modules(__name__, "evaluation_loop fit_loop training_epoch_loop utilities")
stand_in_modules(__name__, "optimization optimization.automatic optimization.closure optimization.manual")
__getattr__ = answers(__name__)


stand_in_addresses(__name__)

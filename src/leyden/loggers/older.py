"""Names of the loggers of 0.7 to 1.9."""

from leyden.distributed.rank_zero import rank_zero_only as rank_zero_only
from leyden.loggers.base import LightningLoggerBase as LightningLoggerBase
from leyden.loggers.base import LoggerCollection as LoggerCollection

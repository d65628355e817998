"""After training: what is told about a finished run. One HTML page, the model's card, and where both come from.

Nothing here imports JAX, so the driver on the head can use all of it.
"""

from dpojob_trainer.report.lineage import lineage_of, versions
from dpojob_trainer.report.page import render
from dpojob_trainer.report.publish import card_texts, publish

__all__ = ["card_texts", "lineage_of", "publish", "render", "versions"]

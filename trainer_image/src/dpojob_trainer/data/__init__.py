"""From the spec's data set to token ids: load rows, bring them to one form, tokenise, split, check.

``prepare`` is the only door. It is a pure function of the configuration, the files and the tokenizer, so every host of
the slice gets the same pairs in the same order.
"""

from dpojob_trainer.data.prepare import DataReport, PreparedData, prepare

__all__ = ["DataReport", "PreparedData", "prepare"]

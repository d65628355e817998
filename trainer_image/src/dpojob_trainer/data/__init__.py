"""From the spec's data set to token ids: load rows, bring them to one form, tokenise, split, check.

``prepare`` is the only door. It is a function of the configuration, the files and the tokenizer alone, so every host of
the slice gets the same pairs in the same order.
"""

from dpojob_trainer.data.prepare import DataReport, PreparedData, load_tokenizer, prepare

__all__ = ["DataReport", "PreparedData", "load_tokenizer", "prepare"]

"""From the spec's data set to token ids: load rows, bring them to one form, tokenise, split, check.

``prepare`` is the trainer's door; ``examine`` and ``accept`` are its two halves. It is a function of the configuration,
the files and the tokenizer alone, so every host of the slice gets the same pairs in the same order.
"""

from dpojob_trainer.data.handover import write as write_rows
from dpojob_trainer.data.prepare import PreparedData, accept, examine, load_tokenizer, prepare
from dpojob_trainer.data.report import DataReport

__all__ = ["DataReport", "PreparedData", "accept", "examine", "load_tokenizer", "prepare", "write_rows"]

"""``python -m dpojob_trainer.cli``: the command ``dpojob`` where the console script is not installed."""

from dpojob_trainer.cli import app

app(prog_name="dpojob")

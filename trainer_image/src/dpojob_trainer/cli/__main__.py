"""``python -m dpojob_trainer.cli``: the command ``dpojob`` where the console script is not installed."""

from dpojob_trainer.cli import app

if __name__ == "__main__":
    app(prog_name="dpojob")

"""The model's card: README.md of the exported folder, with the metadata that the Hugging Face Hub reads."""

from collections.abc import Mapping

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dpojob_api.trainer_config import TrainerConfig
from dpojob_api.uris import parse_uri
from dpojob_trainer.report.history import ACCURACY, MARGIN, History, Numbers
from dpojob_trainer.report.page import environment
from dpojob_trainer.report.sections import lineage, settings

CARD_FILE = "README.md"
METRICS = (("Loss", "loss"), ("Reward accuracy", ACCURACY), ("Reward margin", MARGIN))


def model_card(
    config: TrainerConfig, history: History, origin: Mapping[str, str], versions: Mapping[str, str]
) -> str:
    """Return the card's text.

    Args:
        config: the attempt's configuration.
        history: the run's numbers; held-out ones become the card's results.
        origin: what :func:`lineage_of` returns.
        versions: versions of the packages by name.
    """
    held_out = history.held_out
    before, after = (held_out[min(held_out)], held_out[max(held_out)]) if held_out else ({}, {})
    body = (
        environment()
        .get_template("card.md.j2")
        .render(
            config=config,
            step=max(history.train, default=0),
            rows=[
                (label, before[name], after[name])
                for label, name in METRICS
                if name in before and name in after
            ],
            pairs=int(after.get("pairs", 0)),
            settings=settings(config),
            lineage=lineage(origin),
            versions=versions,
            chat="chatTemplateSha256" in origin,
        )
    )
    return str(ModelCard(f"---\n{card_data(config, after).to_yaml()}\n---\n\n{body}"))


def card_data(config: TrainerConfig, after: Numbers) -> ModelCardData:
    """Return the metadata; what does not lie on the Hub is not named in it, because the Hub would link to it."""
    model, dataset = (parse_uri(uri) for uri in (config.model.uri, config.dataset.uri))
    on_hub = dataset.scheme == "hf"
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset.root if on_hub else "preferences",
            dataset_name=f"{dataset.root}, held out",
            metric_type=name.replace("/", "_"),
            metric_value=after[name],
            metric_name=label,
        )
        for label, name in METRICS
        if name in after
    ]
    return ModelCardData(
        model_name=config.job.name,
        base_model=model.root if model.scheme == "hf" else None,
        datasets=[dataset.root] if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["dpo", "dpojob"],
        eval_results=results or None,
    )

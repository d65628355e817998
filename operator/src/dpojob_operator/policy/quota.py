"""Whether the namespace's ResourceQuotas have room for an attempt at all.

What others use of a quota is not looked at: that passes, and the API server's words on refused pods tell it meanwhile.
"""

import re
from collections.abc import Iterable
from decimal import Decimal

from dpojob_api.v1alpha1 import DPOJob, hosts_of, shape_of
from dpojob_operator.desired import placement
from dpojob_operator.observed import QuotaView

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
QUANTITY = re.compile(r"([0-9]*\.?[0-9]+)(?:[eE]([+-]?[0-9]+)|(m|k|[KMGTPE]i|[MGTPE]))?")
POWERS = {"k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
# Names under which a quota may count what a pod requests.
ALIASES = {"cpu": "requests.cpu", "memory": "requests.memory", "count/pods": "pods"}


def amount(quantity: str) -> Decimal | None:
    """Return a Kubernetes quantity as a number, None for what is none."""
    found = QUANTITY.fullmatch(quantity)
    if found is None:
        return None
    number, exponent, suffix = Decimal(found[1]), found[2], found[3] or ""
    if exponent:
        return number.scaleb(int(exponent))
    if suffix == "m":
        return number / 1000
    if suffix.endswith("i"):
        return number * Decimal(1024) ** (1 if suffix == "Ki" else POWERS[suffix[0]])
    return number * Decimal(1000) ** POWERS.get(suffix, 0)


def needs(job: DPOJob) -> dict[str, Decimal]:
    """Return what the pods of an attempt ask for, by the names that quotas use."""
    runtime, hosts = job.spec.runtime, hosts_of(job.spec)
    host = placement.resources(runtime.host.resources, shape_of(job.spec).chips_per_host)
    needed = {"pods": Decimal(hosts + 1)}
    for times, resources in ((1, placement.resources(runtime.head.resources)), (hosts, host)):
        for kind, quantities in resources.items():
            for name, quantity in quantities.items():
                number = amount(str(quantity))
                if number is not None:
                    key = f"{kind}.{name}"
                    needed[key] = needed.get(key, Decimal(0)) + times * number
    return needed


def find_shortage(job: DPOJob, quotas: Iterable[QuotaView]) -> str | None:
    """Return in words which quota is smaller than an attempt, None if all are large enough."""
    needed = needs(job)
    for quota in quotas:
        for name, text in sorted(quota.hard.items()):
            need, allowed = needed.get(ALIASES.get(name, name)), amount(text)
            if need is not None and allowed is not None and need > allowed:
                return f"ResourceQuota {quota.name!r} allows {text} of {name}, and an attempt needs {short(need)}"
    return None


def short(number: Decimal) -> str:
    """Return a number as a person would write it."""
    gibibytes = number / 2**30
    return f"{gibibytes:.4g}Gi" if gibibytes >= 1 else f"{number:f}"

"""The ablation of the refinement changes the constants that it names, for as long as it says, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks import refining
from benchmarks.refining import CLOSED, UNTOUCHED, VARIANTS, Ready, changed, made, markdown
from benchmarks.zoo import datasets
from rectify.editing import refine
from rectify.editing.casebook import open_case
from rectify.editing.fault import diagnose
from rectify.editing.judge import probabilities
from rectify.editing.localize import is_candidate
from rectify.model.trace import survey
from tests.editing.planted import pictures, planted, stamp


def test_constants_are_changed_and_put_back() -> None:
    usual = refine.CLEAN, refine.FEATURES, refine.Plan()
    for name, variant in VARIANTS.items():
        with changed(variant) as plan:
            found = refine.CLEAN, refine.FEATURES, plan
            different = sum(one != other for one, other in zip(found, usual, strict=True))
            assert different == (0 if name == "as it is" or variant.finished else 1), name
        assert (refine.CLEAN, refine.FEATURES, refine.Plan()) == usual


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    its = dict(before.named_parameters())
    return {name for name, value in after.named_parameters() if not torch.equal(value, its[name])}


def test_each_variant_is_made_from_the_untouched_network(monkeypatch) -> None:
    network, clean = planted(), pictures(1, 1)
    fault = diagnose(probabilities(network, clean), probabilities(network, stamp(clean)), None)
    case = open_case(network, clean, stamp(clean), fault, pictures(50, 2), (torch.zeros(1, 1, 1), torch.ones(1, 1, 1)))
    sites = tuple(site for site in survey(network, clean) if is_candidate(site))
    ready = Ready(network, case, sites, datasets.Split(None, None))  # type: ignore[arg-type]
    monkeypatch.setattr(
        refining,
        "VARIANTS",
        {name: refining.Variant(plan={"steps": 2}, finished=name == "more") for name in ("half", "more")},
    )
    assert made(ready, UNTOUCHED) is network
    assert moved(network, made(ready, "half")) == {"conv1.weight", "conv2.weight"}
    assert moved(network, made(ready, "more")) == {"conv1.weight", "conv2.weight", "head.weight"}
    assert "head.weight" in moved(network, made(ready, CLOSED))


def test_the_page_has_a_table_a_network_in_the_order_of_the_variants() -> None:
    figures = {
        "accuracy": 0.9,
        "accuracy_other": 0.91,
        "asr": 0.02,
        "base_rate": 0.01,
        "recovery": 0.88,
        "seconds": 12.4,
    }
    rows = [
        {"name": name, "variant": variant, **figures}
        for name in ("b", "a")
        for variant in ("all layers", "as it is", UNTOUCHED)
    ]
    lines = markdown(rows).splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## b", "## a"]
    shown = [line.split(" | ")[0] for line in lines if line.startswith("| ") and "variant" not in line]
    assert shown == ["| untouched", "| as it is", "| all layers"] * 2
    assert "| untouched | 90.00 | 91.00 | 2.00 | 1.00 | 88.00 | 12 |" in lines

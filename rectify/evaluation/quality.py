"""The metrics of explanation quality by name: what ``rectify evaluate --metrics`` measures of each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from torch import Tensor

from rectify.attribution.attribution import Attribution, Method, Settings
from rectify.attribution.baselines import baseline_images
from rectify.attribution.integrated_gradients import integral
from rectify.attribution.methods import WITH_BASELINE, method
from rectify.attribution.score import Score
from rectify.attribution.uni import RULE, STEPS, Unlearning, unlearned_baseline
from rectify.errors import UsageError
from rectify.evaluation.attacks import (
    Budget,
    DifferentiableMap,
    Perturbed,
    attack_attribution,
    fgsm,
    gradient_map,
    robustness,
    smooth_score,
)
from rectify.evaluation.faithfulness import Curves, Masked, curves, masked_scores, mu_fidelity
from rectify.evaluation.leakage import leakage
from rectify.evaluation.measure import Measure
from rectify.evaluation.path import completeness, monotonicity
from rectify.evaluation.stability import STEPS as PATH_STEPS
from rectify.evaluation.stability import stability_over_baselines, stability_over_steps
from rectify.evaluation.twin import network_name
from rectify.files.words import did_you_mean
from rectify.names import METRICS

WITH_STEPS = ("ig", "uni", "blur-ig", "guided-ig", "idgi")  # those whose steps are points of a path
ATTACK_STEPS = 10  # path points of the map that an attack differentiates


@dataclass(frozen=True)
class Attack:
    """How maps are attacked.

    Attributes
    ----------
    eps, norm
        The budget, in pixels 0..1.
    objective
        What the search is after: see `rectify.evaluation.attacks.attack_attribution`.
    iterations, restarts
        Of the search.
    k
        Pixels of the top-k intersection.
    """

    eps: float = 8 / 255
    norm: str = "inf"
    objective: str = "l2"
    iterations: int = 20
    restarts: int = 1
    k: int = 100

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Attack:
        """From ``attack_eps``, ``attack_norm``, … of `Settings.options`."""
        return cls(**{key.removeprefix("attack_"): options[key] for key in options if key.startswith("attack_")})


_SHARED = ("masked", "stepped", "_null", "_searched", "_made")


class Bench:
    """A network, images and the classes to explain; what several metrics or methods need is computed once.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        Of the methods, with bounds.
    null_region
        Bool (H, W), for ``leakage``.
    """

    def __init__(
        self, score: Score, x: Tensor, targets: Tensor, settings: Settings, null_region: Tensor | None = None
    ) -> None:
        self.score, self.x, self.targets, self.settings, self.null_region = score, x, targets, settings, null_region
        self.attack = Attack.from_options(settings.options)
        self._null: dict[str, Tensor | None] = {}
        self._searched: dict[str, Perturbed] = {}
        self._made: dict[tuple[Any, ...], _Made] = {}

    def with_settings(self, settings: Settings) -> Bench:
        """The same network and images with other settings of the methods.

        What has been computed is shared, where seed, pixel range and attack are the same.
        """
        other = Bench(self.score, self.x, self.targets, settings, self.null_region)
        alike = (other.attack, settings.seed) == (self.attack, self.settings.seed)
        if alike and settings.bounds is self.settings.bounds:
            other.__dict__ |= {key: value for key, value in self.__dict__.items() if key in _SHARED}
        return other

    @cached_property
    def masked(self) -> Masked:
        """The masked scores that MuFidelity of every method shares."""
        return masked_scores(self.score, self.x, self.targets, bounds=self.settings.bounds, seed=self.settings.seed)

    @cached_property
    def stepped(self) -> Perturbed:
        """The images after FGSM: the same for every method."""
        budget = Budget(self.attack.eps, "inf", self.settings.bounds)
        return fgsm(self.score, self.x, self.targets, budget)

    def searched(self, name: str) -> Perturbed:
        """The images after the search against the map of a method; one search serves all that share that map."""
        smooth = attacked_map(name, smooth_score(self.score), self.settings)
        key = smooth.name
        if key not in self._searched:
            self._searched[key] = attack_attribution(
                self.score,
                self.x,
                self.targets,
                smooth,
                Budget(self.attack.eps, self.attack.norm, self.settings.bounds),  # type: ignore[arg-type]
                judged=attacked_map(name, self.score, self.settings),
                objective=self.attack.objective,  # type: ignore[arg-type]
                k=self.attack.k,
                iterations=self.attack.iterations,
                restarts=self.attack.restarts,
                seed=self.settings.seed,
            )
        return self._searched[key]

    def measure(self, name: str, metrics: Sequence[str], function: Method | None = None) -> list[Measure]:
        """The metrics of the method of this name, in the order asked for; ``function`` is one that is not ours.

        Raises
        ------
        UsageError
            Unknown method or metric, or leakage without a null region.
        """
        key = (name, function, _key(self.settings))
        made = self._made.setdefault(key, _Made(self, name, function))
        found: list[Measure] = []
        for metric in metrics:
            if metric not in _MEASURES:
                raise UsageError(f"no metric {metric!r}; the metrics are {', '.join(METRICS)}")
            found += [self._told(made, measure) for measure in _MEASURES[metric](made)]
        return found

    def _told(self, made: _Made, measure: Measure) -> Measure:
        """With how many images there were, and how the method was set."""
        told = {"images": len(measure.values), "attribution": made.settings(), **measure.settings}
        if self.null_region is not None and measure.metric.startswith("leakage"):
            told["null_region_share"] = float(self.null_region.double().mean())
        return replace(measure, settings=told)

    def curve(self, kind: str, heat: Tensor) -> Curves:
        """Deletion or insertion; the null is drawn once for all methods."""
        common: dict[str, Any] = {"bounds": self.settings.bounds, "seed": self.settings.seed}
        found = curves(kind, self.score, self.x, self.targets, heat, null=self._null.get(kind), **common)
        self._null[kind] = found.measure.null
        return found


def _key(settings: Settings) -> str:
    """Settings as text; of an image baseline all of its numbers, which a tensor's own text leaves out."""
    baseline, reference = settings.baseline, settings.reference
    told = [baseline if isinstance(baseline, str) else _digest(baseline)]
    told.append("" if reference is None else str(id(reference)))
    return f"{told} {replace(settings, baseline='', bounds=None, reference=None)}"


class _Made:
    """A method on a bench: its maps are made when a metric asks for them, and once."""

    def __init__(self, bench: Bench, name: str, function: Method | None) -> None:
        self.bench, self.name = bench, name
        self.method: Method = function or method(name)

    def settings(self) -> dict[str, Any]:
        """What the method used where its maps are made, else what it was told."""
        if "maps" in self.__dict__:
            return dict(self.maps.settings)
        here = self.bench.settings
        return {"steps": here.steps, "rule": here.rule, "options": dict(here.options)}

    @cached_property
    def maps(self) -> Attribution:
        bench = self.bench
        return self.method(bench.score, bench.x, bench.targets, bench.settings)


def _mufidelity(made: _Made) -> list[Measure]:
    return mu_fidelity(made.bench.masked, made.maps.heat(), seed=made.bench.settings.seed)


def _deletion(made: _Made) -> list[Measure]:
    return [made.bench.curve("deletion", made.maps.heat()).measure]


def _insertion(made: _Made) -> list[Measure]:
    return [made.bench.curve("insertion", made.maps.heat()).measure]


def _monotonicity(made: _Made) -> list[Measure]:
    scores = made.maps.path_scores
    return [] if scores is None else [monotonicity(scores)]


def _completeness(made: _Made) -> list[Measure]:
    return [] if made.maps.gap is None else completeness(made.maps)


def _leakage(made: _Made) -> list[Measure]:
    if made.bench.null_region is None:
        raise UsageError("leakage needs to know where nothing of the class is: give --null-region mask.png")
    return leakage(made.maps.heat(), made.bench.null_region)


def _stability(made: _Made) -> list[Measure]:
    bench, found = made.bench, list[Measure]()
    common = (made.method, bench.score, bench.x, bench.targets, bench.settings)
    if made.name in WITH_STEPS:
        few = (2, *PATH_STEPS[1:]) if made.name == "blur-ig" else PATH_STEPS  # blur-ig has no path of one point
        rows = stability_over_steps(*common, steps=few)
        found += [_told(row, "stability", f"steps-{row.settings['steps']}") for row in rows]
    if made.name in WITH_BASELINE:
        rows = stability_over_baselines(*common)
        found += [_told(row, "baseline-stability", str(row.settings["baseline"])) for row in rows]
    return found


def _told(measure: Measure, old: str, what: str) -> Measure:
    """The measure under a name of its own: ``stability-steps-15-spearman``, ``stability-white-l2``."""
    return replace(measure, metric=measure.metric.replace(old, f"stability-{what}", 1))


def _robustness(made: _Made) -> list[Measure]:
    """Under the search for the greatest distance of the method's own map, and under FGSM."""
    bench, found = made.bench, list[Measure]()
    for under, perturbed in (("attack", bench.searched(made.name)), ("fgsm", bench.stepped)):
        common = (made.method, bench.score, bench.x, bench.targets, bench.settings, perturbed)
        for row in robustness(*common, k=bench.attack.k):
            found.append(replace(row, metric=row.metric.replace("robustness", f"robustness-{under}")))
    return found


_MEASURES: dict[str, Callable[[_Made], list[Measure]]] = {
    "mufidelity": _mufidelity,
    "deletion": _deletion,
    "insertion": _insertion,
    "robustness": _robustness,
    "stability": _stability,
    "monotonicity": _monotonicity,
    "completeness": _completeness,
    "leakage": _leakage,
}


def attacked_map(name: str, score: Score, settings: Settings) -> DifferentiableMap:
    """The map that an attack on a method differentiates; maps of one name are the same map.

    The method's own where it can be differentiated: IG from the method's baseline for ``ig``; for ``uni`` IG from the
    baseline unlearned at the attacked image, held fixed for the gradient. ``gradient`` for all the others, which are
    then attacked by transfer; the settings of the measure say so.
    """
    if name == "uni":
        how = Unlearning.from_options(settings.options)
        steps = min(STEPS if settings.steps is None else settings.steps, ATTACK_STEPS)

        def learned(x: Tensor, targets: Tensor) -> Tensor:
            return unlearned_baseline(score, x, targets, how, settings.bounds)

        return _line_map(score, learned, steps, settings.rule or RULE, f"uni-{steps} {how}")
    if name == "ig":
        told = settings.baseline if isinstance(settings.baseline, str) else _digest(settings.baseline)

        def chosen(x: Tensor, targets: Tensor) -> Tensor:
            return baseline_images(x, settings)

        return _line_map(score, chosen, ATTACK_STEPS, "gauss-legendre", f"ig-{ATTACK_STEPS} from {told}")
    return gradient_map(score)


def _line_map(
    score: Score, start: Callable[[Tensor, Tensor], Tensor], steps: int, rule: str, name: str
) -> DifferentiableMap:
    """IG from a baseline that is made anew at every image, and held fixed for the gradient."""

    def function(x: Tensor, targets: Tensor) -> Tensor:
        return integral(score, start(x.detach(), targets).detach(), x, targets, rule=rule, steps=steps)

    return DifferentiableMap(function, steps, f"{name}, {rule}{network_name(score)}")


def _digest(x: Tensor) -> str:
    return sha256(x.cpu().numpy().tobytes()).hexdigest()


_DEFAULTS: dict[str, Any] = {
    **{name: field.default for name, field in Unlearning.__dataclass_fields__.items()},
    "noise": 0.15,
    "square": False,
    "max_sigma": 50.0,
    "spacing": "linear",
    "fraction": 0.25,
    "max_dist": 0.02,
    **{f"attack_{name}": field.default for name, field in Attack.__dataclass_fields__.items()},
}
OPTIONS = tuple(_DEFAULTS)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of methods and attacks, each of its own type.

    Raises
    ------
    UsageError
        If no method and no attack has such an option, or its value is of another kind.
    """
    for key in options:
        if key not in OPTIONS:
            raise UsageError(f"--set {key}: no method has such an option; {did_you_mean(key, OPTIONS)}")
    return {key: _cast(key, value, type(_DEFAULTS[key])) for key, value in options.items()}


def _cast(key: str, value: Any, kind: type) -> Any:
    if kind is str:
        return str(value)
    fits = isinstance(value, bool) if kind is bool else isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or (kind is int and value != int(value)) or (kind is float and not math.isfinite(value)):
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        raise UsageError(f"--set {key}={value}: give {words[kind]}, such as {key}={_DEFAULTS[key]}")
    return kind(value)

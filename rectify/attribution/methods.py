"""The methods by name. All have one signature, so that a metric, a report or an attack takes any of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib import import_module

from torch import Tensor

from rectify.attribution.attribution import Attribution, Method, Settings
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.files.words import did_you_mean
from rectify.names import METHODS

_PLACES = {  # name: module and function; a module is imported when its method is asked for
    "ig": ("integrated_gradients", "integrated_gradients"),
    "uni": ("uni", "uni"),
    "gradient": ("gradients", "gradient"),
    "gradient-x-input": ("gradients", "gradient_x_input"),
    "smoothgrad": ("gradients", "smoothgrad"),
    "deeplift": ("deeplift", "deeplift"),
    "blur-ig": ("blur_ig", "blur_ig"),
    "guided-ig": ("guided_ig", "guided_ig"),
    "expected-gradients": ("expected_gradients", "expected_gradients"),
    "idgi": ("idgi", "idgi"),
    "grad-cam": ("grad_cam", "grad_cam"),
}
WITH_BASELINE = ("ig", "deeplift", "guided-ig", "idgi")  # those that `Settings.baseline` concerns


def method(name: str) -> Method:
    """The method of this name.

    Raises
    ------
    UsageError
        If there is none, with the nearest name.
    """
    if name not in _PLACES:
        raise UsageError(f"no method {name!r}: {did_you_mean(name, METHODS)}")
    module, function = _PLACES[name]
    found: Method = getattr(import_module(f"rectify.attribution.{module}"), function)
    return found


def attribute(name: str, score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """Maps of images (N, C, H, W) for classes (N,), or, with `Settings.layer`, of that layer's output.

    Raises
    ------
    UsageError
        Unknown method or layer, a method that has no layer form, or settings that make no sense.
    """
    chosen = method(name)
    if settings.layer is None or name == "grad-cam":  # Grad-CAM's layer is where it looks, not what it returns
        return chosen(score, x, targets, settings)
    from rectify.attribution.layers import find_module, layer_attribution

    if name == "uni":
        find_module(score.network, settings.layer)  # before its baseline is learned, which takes a while
        from rectify.attribution.uni import STEPS, Unlearning, unlearned_baseline

        how = Unlearning.from_options(settings.options)
        start = unlearned_baseline(score, x, targets, how, settings.bounds)
        settings = replace(settings, steps=STEPS if settings.steps is None else settings.steps)
        found = layer_attribution(name, score, x, targets, settings, baseline=start)
        told = {**found.settings, "baseline": "unlearned", **asdict(how)}
        return replace(found, settings={**told, "layer": settings.layer}, complete=False)
    found = layer_attribution(name, score, x, targets, settings)
    # beside a shortcut a layer carries only a part of the change: its sum is no error
    return replace(found, settings={**found.settings, "layer": settings.layer}, complete=False)

"""The jobs of the command line as functions: each takes what was read, and returns the whole report as a dict.

Nothing here prints; what is to be seen while one runs goes through a `Progress`.
"""

from rectify.jobs.common import Inputs, Options, Progress
from rectify.jobs.edit import Editing, run_edit
from rectify.jobs.evaluate import Quality, run_evaluate
from rectify.jobs.explain import Explaining, run_explain
from rectify.jobs.localize import run_localize
from rectify.jobs.scan import Scan, Suspect
from rectify.jobs.train import Trained, run_train

__all__ = [
    "Editing",
    "Explaining",
    "Inputs",
    "Options",
    "Progress",
    "Quality",
    "Scan",
    "Suspect",
    "Trained",
    "run_edit",
    "run_evaluate",
    "run_explain",
    "run_localize",
    "run_train",
]

"""All rows of the table, in its order."""

from __future__ import annotations

from benchmarks.rivals import (
    anp,
    clarc,
    clp,
    fine_pruning,
    fine_tuning,
    ft_sam,
    ibau,
    ours,
    projection,
    rectifying,
)
from benchmarks.rivals.evidence import Method

METHODS: dict[str, Method] = {
    "untouched": ours.UNTOUCHED,
    "clp": clp.METHOD,
    "clp-tuned": clp.TUNED,
    "ft-clean": fine_tuning.CLEAN,
    "fine-pruning": fine_pruning.METHOD,
    "anp": anp.METHOD,
    "i-bau": ibau.METHOD,
    "ft-sam": ft_sam.METHOD,
    "a-clarc": clarc.A_CLARC,
    "ft-pair": fine_tuning.PAIR,
    "projection": projection.METHOD,
    "p-clarc": clarc.P_CLARC,
    "static": rectifying.STATIC,
    "static-best": rectifying.BEST,
    "dynamic": rectifying.DYNAMIC,
    "dynamic-anywhere": rectifying.ANYWHERE,
    "ours": ours.OURS,
}

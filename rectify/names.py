"""Names that both a help page and the library know. Nothing is imported here: a help page must not wait for torch."""

METHODS = (  # of attribution
    "ig",
    "uni",
    "gradient",
    "gradient-x-input",
    "smoothgrad",
    "deeplift",
    "blur-ig",
    "guided-ig",
    "expected-gradients",
    "idgi",
    "grad-cam",
)
SCORES = ("probability", "logit", "log-probability")
QUADRATURES = ("gauss-legendre", "midpoint", "right-riemann", "trapezoid")
BASELINES = ("black", "white", "mean", "blur", "noise", "uniform")
METRICS = (  # of the quality of explanations
    "mufidelity",
    "deletion",
    "insertion",
    "robustness",
    "stability",
    "monotonicity",
    "completeness",
    "leakage",
)
OBJECTIVES = ("natural", "madry", "input-gradient", "ig-norm", "ig-sum-norm")  # of training

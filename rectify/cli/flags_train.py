"""The flags of train alone."""

from __future__ import annotations

from rectify.cli import values
from rectify.cli.flags import flag, switch
from rectify.names import OBJECTIVES

ROWS = ("mnist", "fashion-mnist", "gtsrb", "flower")

TRAIN_DATA = (  # a name and place of its own: `data` of a rectify.yaml judges, and must not be trained on unawares
    flag(
        "train_data",
        "Data",
        "Images to train on: a folder a class, a CSV file, torchvision's flowers-102 folder; or by name, fetched: "
        "mnist, fashion-mnist, cifar10.",
        values.path,
        "DIR|CSV|NAME",
        spellings=("--data",),
        key="train.data",
    ),
    flag("val", "Data", "Labelled images that judge.", values.path, "DIR|CSV", key="train.val"),
)
TRAIN = (
    flag(
        "objective",
        "Train",
        f"What is minimised: {', '.join(OBJECTIVES)} [default: ig-sum-norm].",
        values.one_of(*OBJECTIVES),
        "NAME",
        key="train.objective",
    ),
    flag(
        "preset",
        "Train",
        f"The paper's settings, where no flag says otherwise: {', '.join(ROWS)}, each also as NAME-quick, which a CPU "
        "can do.",
        values.one_of(*ROWS, *(f"{row}-quick" for row in ROWS)),
        "NAME",
        key="train.preset",
    ),
    flag("eps", "Train", "Radius of the attack in pixels: 0.3, or 8/255.", values.pixels, "X", key="train.eps"),
    flag("epochs", "Train", "Passes over the data.", values.whole(1), "N", key="train.epochs"),
    flag(
        "epoch_size", "Train", "Images a pass, drawn anew each [default: all].", values.whole(1), "N",
        key="train.epoch_size",
    ),
    flag(
        "lr", "Train", "Learning rate; 2e-3,600:5e-4 is 2e-3, and 5e-4 from step 600.", values.rates, "X",
        key="train.lr",
    ),
    flag(
        "optimizer", "Train", "Adam, or SGD with momentum 0.9.", values.one_of("adam", "momentum"), "adam|momentum",
        key="train.optimizer",
    ),
    flag("weight_decay", "Train", "Of weights, not biases.", values.floor, "X", key="train.weight_decay"),
    flag(
        "attack_steps", "Train", "Steps of the attack in training.", values.whole(1), "N", key="train.attack_steps"
    ),
    flag("path_steps", "Train", "Path points of the attribution.", values.whole(1), "N", key="train.path_steps"),
    flag("weight", "Train", "Of the regulariser: lambda, or beta.", values.floor, "X", key="train.weight"),
    flag(
        "ramp", "Train", "Share of the training in which eps grows from 0.", values.fraction, "X", key="train.ramp"
    ),
    flag(
        "attack_samples", "Train", "Images that the result is attacked on.", values.whole(0), "N", default=50,
        key="train.attack_samples",
    ),
    flag(
        "train_out",
        "Train",
        "The trained model [default: MODEL's stem + .trained.safetensors].",
        values.path,
        "FILE",
        spellings=("-o", "--out"),
        key="train.out",
    ),
    flag(
        "save_every", "Train", "Seconds between two states that a stopped run can go on from; 0: after every step.",
        values.floor, "X", default=30.0, key="train.save_every",
    ),
    switch("resume", "Train", "Go on with a run that was stopped, as if it had not been.", env=False),
    switch("force", "Train", "Overwrite an existing output; never the input.", env=False),
)  # fmt: skip

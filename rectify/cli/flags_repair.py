"""The flags of localize and edit alone."""

from __future__ import annotations

from rectify.cli import values
from rectify.cli.flags import flag, switch

MODES = ("dynamic", "static")

TRIAL = (
    switch(
        "trial",
        "Localize",
        "Try an edit of every candidate layer, however long it takes [default: as many as a minute affords].",
    ),
)
SCAN = (
    flag(
        "scan",
        "Localize",
        "Folder of images, or image, to rank by how strongly the fault fires in them; repeatable.",
        values.path,
        "PATH",
        many=True,
    ),
    flag(
        "scan_layer",
        "Localize",
        "The layer whose keys --scan looks at; auto: the first of the ranking.",
        metavar="auto|NAME",
        default="auto",
    ),
)
EDIT = (
    flag(
        "out",
        "Edit",
        "The repaired model [default: MODEL's stem + .rectified.safetensors].",
        values.path,
        "FILE",
        spellings=("-o", "--out"),
        key="edit.out",
    ),
    flag("layer", "Edit", "Edit this layer alone.", metavar="auto|NAME", default="auto", key="edit.layer"),
    flag(
        "mode",
        "Edit",
        "Ever larger edits until one is whole, or one closed-form edit of one layer.",
        values.one_of(*MODES),
        "|".join(MODES),
        default="dynamic",
        key="edit.mode",
    ),
    flag(
        "rank",
        "Edit",
        "Rank of each layer's edit; auto: one if static, else as small as does it.",
        values.auto_or_rank,
        "auto|N",
        default="auto",
        key="edit.rank",
    ),
    flag(
        "refine",
        "Edit",
        "Move the first layers together where closed forms fall short; off saves minutes.",
        values.one_of("auto", "off"),
        "auto|off",
        default="auto",
        key="edit.refine",
    ),
    flag("delta", "Edit", "Write the edit alone, as low-rank factors.", values.path, "FILE", key="edit.delta"),
    flag(
        "apply",
        "Edit",
        "Apply a delta file instead of searching for an edit.",
        values.path,
        "FILE",
        key=None,
        env=False,
    ),
    switch("dry_run", "Edit", "Judge the edit and write no model.", env=False),
    switch("force", "Edit", "Overwrite an existing output; never the input.", env=False),
    flag(
        "out_dtype",
        "Edit",
        "Write the edited tensors in this type.",
        values.one_of("float32"),
        "float32",
        key="edit.out_dtype",
    ),
)

"""Second moments of the reference images from one run to the next: under which key, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from rectify.editing.localize import Moments, Recall, measurable
from rectify.editing.moments import POSITIONS
from rectify.errors import OutputError
from rectify.files.architectures import Subject
from rectify.files.kept import KeptMoments
from rectify.jobs.common import Options, Progress
from rectify.model.passes import images_a_pass
from rectify.model.record import record
from rectify.model.trace import Site

LAYOUT = 2  # of what is kept: another number forgets all that was kept before


def recall_kept(
    subject: Subject, sites: Sequence[Site], reference: Tensor, options: Options, progress: Progress
) -> Recall:
    """What gives `rectify.editing.localize.localize` its second moments: the cache folder, if there is one.

    The numbers are the same bit by bit with and without; a folder that cannot be used is a note, never an error.
    """
    if options.cache_dir is None:
        return lambda compute: compute()
    kept = KeptMoments(Path(options.cache_dir) / "moments")
    some = measurable(sites)
    shapes = {site.name: _shape(site) for site in some}

    def recall(compute: Callable[[], Moments]) -> Moments:
        if not kept.fits(shapes):
            progress.detail(f"second moments: more than {kept.limit >> 30} GiB, not kept")
            return compute()
        key = moment_key(subject, some, reference, options.batch_size)
        found = kept.load(key, shapes)
        if found is not None:
            progress.detail(f"second moments: {key[:12]} from {kept.folder}")
            return {name: moment.to(subject.device) for name, moment in found.items()}
        moments = compute()
        try:
            kept.keep(key, moments)
            progress.detail(f"second moments: {key[:12]} kept in {kept.folder}")
        except OutputError as problem:
            progress.say(f"note: second moments are not kept for the next run: {problem}")
        return moments

    return recall


def _shape(site: Site) -> tuple[int, ...]:
    return site.layer.groups, site.layer.key_size, site.layer.key_size


def _cut(site: Site) -> list[str]:
    """How a layer's input is cut into keys."""
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return [str(site.layer.pads_itself), *(str(getattr(site.layer.module, name, None)) for name in names)]


def moment_key(subject: Subject, sites: Sequence[Site], reference: Tensor, batch: int) -> str:
    """A sha256 over whatever the numbers depend on, 64 hexadecimal digits.

    Contents, not names: the weights as they were loaded, the images as they were read, what each layer is given of the
    first image, which shows what the code of a ``module:callable`` does with both, and how it is cut into keys. And
    how it is computed: torch and device, threads and instructions, for sums of another order are other sums.
    """
    device = subject.device
    how = {
        "layout": LAYOUT,
        "arch": [subject.arch, sorted((key, repr(value)) for key, value in subject.arch_args.items())],
        "sites": [[site.name, *_shape(site), *_cut(site)] for site in sites],
        "positions": POSITIONS,
        "batch": images_a_pass(reference, batch),
        "precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()],
    }
    digest = sha256(json.dumps(how, sort_keys=True).encode())
    state = subject.network.state_dict()
    weights = [value for _, value in sorted(state.items()) if isinstance(value, Tensor)]
    for tensor in (*weights, reference, *_first_inputs(subject.network, sites, reference)):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _first_inputs(network: nn.Module, sites: Sequence[Site], reference: Tensor) -> list[Tensor]:
    seen = record(network, reference[:1], inputs=[site.layer for site in sites])
    return [seen.inputs[site.name] for site in sites]

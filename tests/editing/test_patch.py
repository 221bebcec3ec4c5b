"""From edits to a file and back, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rectify.editing.cascade import LayerEdit
from rectify.editing.patch import Patch, check_written, compact, delta_tensors, patch, read_delta, same_bits
from rectify.errors import OutputError, RectifyError, UsageError
from rectify.files.checkpoint import write_tensors

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
BASE = "a" * 64


def odd(dtype: torch.dtype) -> Tensor:
    """Numbers that a careless copy changes: NaNs with payloads, both zeros, infinities, denormals."""
    kinds = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
    bits = torch.arange(-40, 40, dtype=kinds[dtype])
    quiet = {torch.float32: 0x7FC00001, torch.float16: 0x7E01, torch.bfloat16: 0x7FC1}[dtype]
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    payload = torch.tensor([quiet, quiet + 5], dtype=kinds[dtype]).view(dtype)
    return torch.cat((bits.view(dtype), special, payload))


def weights(dtype: torch.dtype = torch.float32, *, nan: bool = True) -> dict[str, Tensor]:
    """A state dict of two editable layers and things that must not change; files with NaN are refused elsewhere."""
    bias, mean = odd(dtype), odd(torch.float32)
    return {
        "conv.weight": torch.randn(6, 2, 3, 3).to(dtype),  # two groups of three filters
        "conv.bias": bias if nan else bias[bias.isfinite()],
        "fc.weight": torch.randn(4, 5).to(dtype),
        "bn.num_batches_tracked": torch.tensor(2**53 + 1),
        "bn.running_mean": mean if nan else mean[mean.isfinite()],
    }


def edits(rank: int = 1) -> list[LayerEdit]:
    """Edits of both layers, of the convolution twice."""
    conv = [LayerEdit("conv", torch.randn(2, 3, rank).double(), torch.randn(2, rank, 18).double()) for _ in range(2)]
    return [conv[0], LayerEdit("fc", torch.randn(1, 4, 5).double(), torch.eye(5).double()[None]), conv[1]]


def written(path: Path, what: dict[str, Tensor], layers: list[str], **metadata: object) -> Path:
    """A delta file."""
    return write_tensors(path, what, {"kind": "delta", "base_sha256": BASE, "layers": layers, **metadata}).path


# ---------------------------------------------------------------- compact


def test_compact_is_the_same_edit_in_float32() -> None:
    for edit in edits():
        small = compact(edit)
        assert small.layer == edit.layer and small.left.dtype == small.right.dtype == torch.float32
        assert small.left.is_contiguous() and small.right.is_contiguous()
        torch.testing.assert_close(small.left.double() @ small.right.double(), edit.delta(), rtol=1e-5, atol=1e-6)


def test_compact_keeps_no_more_columns_than_the_weight_has_rows() -> None:
    whole = LayerEdit("fc", torch.randn(1, 4, 50).double(), torch.eye(50).double()[None])
    small = compact(whole)
    assert small.rank == 4 and small.left.numel() + small.right.numel() == 16 + 200
    torch.testing.assert_close(small.delta().double(), whole.delta(), rtol=1e-6, atol=1e-6)
    assert compact(small).delta().equal(small.delta())


def test_a_delta_file_holds_the_factors_and_nothing_else() -> None:
    edit = compact(LayerEdit("fc", torch.randn(1, 64, 3).double(), torch.randn(1, 3, 500).double()))
    assert sum(tensor.numel() for tensor in delta_tensors([edit]).values()) == 3 * (64 + 500) < 64 * 500 / 18


def test_compact_twice_is_compact_once() -> None:
    for edit in edits(2):
        once = compact(edit)
        assert same_bits(once.left, compact(once).left) and same_bits(once.right, compact(once).right)


# ---------------------------------------------------------------- patch


@DTYPES
def test_a_patch_is_one_sum_in_float64_and_one_cast(dtype: torch.dtype) -> None:
    state, made = weights(dtype), [compact(edit) for edit in edits()]
    assert bool(state["conv.bias"].isnan().any())
    kept = {name: value.clone() for name, value in state.items()}
    found = patch(state, made)
    assert set(found.changed) == {"conv.weight", "fc.weight"} and found.state.keys() == state.keys()
    for name, value in state.items():
        assert same_bits(value, kept[name])  # the input is not changed
        assert found.state[name].dtype == value.dtype
        if name not in found.changed:
            assert same_bits(found.state[name], value)
    conv = state["conv.weight"].double()
    for edit in (made[0], made[2]):
        for group in range(2):
            for row in range(3):
                for column in range(18):
                    step = sum(
                        float(edit.left[group, row, r]) * float(edit.right[group, r, column]) for r in range(edit.rank)
                    )
                    conv[3 * group + row].view(-1)[column] += step
    torch.testing.assert_close(found.state["conv.weight"], conv.to(dtype), rtol=0, atol=0)


@DTYPES
def test_precision_loss_is_what_the_cast_took_from_the_delta(dtype: torch.dtype) -> None:
    state = weights(dtype)
    made = [compact(LayerEdit("fc", 1e-3 * torch.randn(1, 4, 1).double(), torch.randn(1, 1, 5).double()))]
    found = patch(state, made)
    delta = made[0].left[0].double() @ made[0].right[0].double()
    lost = found.state["fc.weight"].double() - (state["fc.weight"].double() + delta)
    expected = float(lost.norm() / delta.norm())
    assert found.precision_loss == pytest.approx(expected, rel=1e-6) and expected > 0
    order = {torch.float32: (1e-6, 1e-3), torch.float16: (1e-3, 0.5), torch.bfloat16: (0.1, 2.0)}[dtype]
    assert order[0] < expected < order[1]


def test_another_type_for_what_changed_saves_the_precision() -> None:
    state = weights(torch.bfloat16)
    made = [compact(edit) for edit in edits()][:1]
    found = patch(state, made, torch.float32)
    assert found.state["conv.weight"].dtype == torch.float32 and found.state["fc.weight"].dtype == torch.bfloat16
    assert found.precision_loss < 1e-6 < patch(state, made).precision_loss


def test_no_edits_no_change() -> None:
    state = weights()
    found = patch(state, [])
    assert found.changed == () and found.precision_loss == 0
    assert all(same_bits(found.state[name], state[name]) for name in state)


def test_a_delta_of_zero_changes_nothing() -> None:
    state = weights()
    found = patch(state, [LayerEdit("fc", torch.zeros(1, 4, 1), torch.zeros(1, 1, 5))])
    assert found.changed == () and found.precision_loss == 0


@pytest.mark.parametrize("dtype, size", [(torch.float32, 0.0), (torch.float16, 1e-12)])
def test_a_delta_that_changes_no_number_can_be_written(tmp_path: Path, dtype: torch.dtype, size: float) -> None:
    state = {"fc.weight": torch.tensor([[1.0, -0.0]], dtype=dtype)}
    found = patch(state, [LayerEdit("fc", torch.full((1, 1, 1), size), torch.ones(1, 1, 2))])
    path = tmp_path / "out.safetensors"
    write_tensors(path, found.state, {})
    check_written(path, state, found)


def test_a_delta_of_zero_in_another_type_can_be_written(tmp_path: Path) -> None:
    state = {"fc.weight": torch.ones(1, 2)}
    found = patch(state, [LayerEdit("fc", torch.zeros(1, 1, 1), torch.ones(1, 1, 2))], torch.float16)
    write_tensors(tmp_path / "out.safetensors", found.state, {})
    check_written(tmp_path / "out.safetensors", state, found)


# ---------------------------------------------------------------- bits


@DTYPES
def test_same_bits_sees_what_equality_does_not(dtype: torch.dtype) -> None:
    value = odd(dtype)
    assert same_bits(value, value.clone()) and not torch.equal(value, value.clone())
    zeros = torch.zeros(3, dtype=dtype)
    assert not same_bits(zeros, -zeros) and torch.equal(zeros, -zeros)
    assert not same_bits(zeros, zeros.double()) and not same_bits(zeros, zeros[None])
    assert same_bits(torch.ones(2, 3, dtype=dtype).T, torch.ones(3, 2, dtype=dtype))
    assert same_bits(torch.tensor(True), torch.tensor(True)) and same_bits(torch.empty(0), torch.empty(0))
    scalar = torch.tensor(1.5, dtype=dtype)
    assert same_bits(scalar, scalar.clone()) and not same_bits(scalar, -scalar)


@DTYPES
def test_a_written_file_is_checked_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    state = weights(dtype, nan=False)
    made = patch(state, [compact(edit) for edit in edits()])
    path = tmp_path / "out.safetensors"
    write_tensors(path, made.state, {})
    check_written(path, state, made)
    longer = {**made.state, "conv.bias": made.state["conv.bias"].double()}
    flipped = {**made.state, "conv.bias": made.state["conv.bias"].clone()}
    zero = int((flipped["conv.bias"] == 0).nonzero()[0])
    flipped["conv.bias"][zero] = -flipped["conv.bias"][zero]
    unedited = {**made.state, "fc.weight": state["fc.weight"]}
    missing = {name: value for name, value in made.state.items() if name != "conv.bias"}
    wrong = {**made.state, "fc.weight": made.state["fc.weight"] + 1}
    for number, content in enumerate((longer, flipped, unedited, missing, wrong, state)):
        other = tmp_path / f"{number}.safetensors"
        write_tensors(other, content, {})
        with pytest.raises(OutputError, match="does not hold") as caught:
            check_written(other, state, made)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- delta files


@DTYPES
@pytest.mark.parametrize("rank", [1, 3])
def test_the_delta_file_gives_the_same_bits_as_the_edit(tmp_path: Path, dtype: torch.dtype, rank: int) -> None:
    state, made = weights(dtype), [compact(edit) for edit in edits(rank)]
    path = written(tmp_path / "delta.safetensors", delta_tensors(made), [edit.layer for edit in made], version=1)
    read, metadata = read_delta(path, state, BASE)
    assert metadata["version"] == 1 and [edit.layer for edit in read] == ["conv", "fc", "conv"]
    straight, through = patch(state, made), patch(state, read)
    assert through.changed == straight.changed and through.precision_loss == straight.precision_loss
    assert all(same_bits(through.state[name], value) for name, value in straight.state.items())
    assert isinstance(through, Patch)


def test_steps_are_read_in_order_beyond_ten() -> None:
    many = [LayerEdit("fc", torch.full((1, 4, 1), float(i)), torch.ones(1, 1, 5)) for i in range(12)]
    names = list(delta_tensors(many))
    assert names == sorted(names) and len(names) == 24


def refused(path: Path, state: dict[str, Tensor], sha256: str = BASE) -> str:
    """The one line with which a delta is refused."""
    with pytest.raises(RectifyError) as caught:
        read_delta(path, state, sha256)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_delta_of_another_base_is_refused(tmp_path: Path) -> None:
    made = [compact(edit) for edit in edits()]
    path = written(tmp_path / "d.safetensors", delta_tensors(made), ["conv", "fc", "conv"])
    message = refused(path, weights(), "b" * 64)
    assert "another model" in message and "aaaaaaaaaaaa" in message and "bbbbbbbbbbbb" in message


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.complex64])
def test_factors_that_are_no_real_numbers_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = delta_tensors([compact(edit) for edit in edits()])
    tensors["0001.right"] = tensors["0001.right"].to(dtype)
    path = written(tmp_path / "d.safetensors", tensors, ["conv", "fc", "conv"])
    kinds = " and ".join(sorted(["float32", str(dtype).removeprefix("torch.")]))
    assert f"step 1 (fc) holds {kinds}, not real numbers" in refused(path, weights())


def test_a_file_that_is_no_delta_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in ({}, {"kind": "patched", "layers": ["fc"]}, {"kind": "delta"}, {"kind": "delta", "layers": 3}):
        write_tensors(path, weights(nan=False), metadata, force=True)
        assert "no delta file" in refused(path, weights())
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    refused(text, weights())
    refused(tmp_path / "missing.safetensors", weights())


@pytest.mark.parametrize(
    "left, right, layers",
    [
        ((1, 4, 2), (1, 3, 5), ["fc"]),  # ranks disagree
        ((1, 4, 1), (1, 1, 6), ["fc"]),  # too wide
        ((1, 3, 1), (1, 1, 5), ["fc"]),  # too short
        ((4, 1), (1, 5), ["fc"]),  # no groups
        ((1, 4, 1), (1, 1, 5), ["gone"]),
        ((1, 4, 1), (1, 1, 5), ["fc", "fc"]),  # a step is missing
    ],
)
def test_a_delta_that_does_not_fit_is_refused(
    tmp_path: Path, left: tuple[int, ...], right: tuple[int, ...], layers: list[str]
) -> None:
    tensors = {"0000.left": torch.ones(left), "0000.right": torch.ones(right)}
    assert "does not fit" in refused(written(tmp_path / "d.safetensors", tensors, layers), weights())


@pytest.mark.parametrize("left, right", [((1, 5, 1), (1, 1, 4)), ((1, 10, 1), (1, 1, 2)), ((1, 4, 1), (2, 1, 5))])
def test_a_delta_of_another_form_with_as_many_numbers_is_refused(
    tmp_path: Path, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    tensors = {"0000.left": torch.ones(left), "0000.right": torch.ones(right)}
    path = written(tmp_path / "d.safetensors", tensors, ["fc"])
    with pytest.raises(UsageError):
        read_delta(path, weights(), BASE)

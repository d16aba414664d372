import pytest
import torch

from services.common.errors import BadInput
from services.common.tensors.codec import tensor_from_bytes, tensor_to_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64"])
def test_a_tensor_survives_the_wire_bit_for_bit(dtype: str):
    tensor = (torch.randn(3, 5) * 100).to(getattr(torch, dtype))
    back = tensor_from_bytes(tensor_to_bytes(tensor), dtype, (3, 5))
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_a_transposed_tensor_is_written_row_by_row():
    tensor = torch.arange(6, dtype=torch.int64).view(2, 3).T
    assert torch.equal(tensor_from_bytes(tensor_to_bytes(tensor), "int64", (3, 2)), tensor)


def test_an_empty_tensor_survives_too():
    assert tensor_from_bytes(tensor_to_bytes(torch.empty(0, 4)), "float32", (0, 4)).shape == (0, 4)


def test_a_wrong_size_is_refused():
    with pytest.raises(BadInput, match="do not fill"):
        tensor_from_bytes(b"1234", "float32", (2,))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(BadInput, match="complex"):
        tensor_from_bytes(b"", "complex64", (0,))

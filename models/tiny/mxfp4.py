"""MXFP4: blocks of 32 values along the last dimension, one power-of-two scale each, 4-bit E2M1 values.

Format: OCP Microscaling Formats (MX) v1.0; file layout as in openai/gpt-oss-20b (`*_blocks`, `*_scales`).
The quantiser trained against (`straight_through`) and the one that writes the file (`pack`) are the same code,
so training sees exactly the weights that are served.
"""

import torch

VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
MIDPOINTS = (VALUES[1:] + VALUES[:-1]) / 2
BLOCK = 32
BIAS = 127


def encode(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """w (..., K) -> magnitude index (..., K/32, 32) int and scale exponent (..., K/32, 1) float.

    Two exponents are tried per block, the smallest that clips nothing and the one below it, and the one with
    the smaller squared error is kept. An all-zero block gets exponent 0.
    """
    blocks = w.reshape(*w.shape[:-1], w.shape[-1] // BLOCK, BLOCK)
    size = blocks.abs()
    peak = size.amax(-1, keepdim=True)
    safe = torch.where(peak > 0, peak, torch.ones_like(peak) * 6)
    high = torch.ceil(torch.log2(safe / VALUES[-1])).clamp(-BIAS + 2, BIAS)
    best = None
    for exponent in (high, high - 1):
        scale = torch.exp2(exponent)
        index = torch.bucketize(size / scale, MIDPOINTS)
        error = (VALUES[index] * scale - size).pow(2).sum(-1, keepdim=True)
        if best is None:
            best = (index, exponent, error)
        else:
            better = error < best[2]
            best = (torch.where(better, index, best[0]), torch.where(better, exponent, best[1]), None)
    return best[0], best[1]


def quantize(w: torch.Tensor) -> torch.Tensor:
    """The nearest MXFP4 tensor to w, as floats of w's shape."""
    index, exponent = encode(w)
    blocks = VALUES[index] * torch.exp2(exponent)
    return torch.copysign(blocks.reshape(w.shape), w)


def straight_through(w: torch.Tensor) -> torch.Tensor:
    """quantize(w) forward, identity backward."""
    return w + (quantize(w.detach()) - w.detach())


def pack(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """w (..., K) -> blocks u8 (..., K/32, 16), low nibble first, and scales u8 (..., K/32), biased by 127."""
    index, exponent = encode(w)
    sign = torch.signbit(w).reshape(index.shape)
    nibble = (index + 8 * sign).to(torch.uint8)
    blocks = nibble[..., 0::2] | (nibble[..., 1::2] << 4)
    return blocks, (exponent.squeeze(-1) + BIAS).to(torch.uint8)

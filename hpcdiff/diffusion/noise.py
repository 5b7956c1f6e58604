"""Counter-based random numbers: each row's draws depend on its key, a counter and the shape of the row alone.

Philox4x32-10 (Salmon et al. 2011) in 64-bit integer operations: the same bits on every device, for any batch. The
normal numbers agree between devices to the last digits of their logarithms, sines and cosines.
"""

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_NORMAL, _UNIFORM, _SIGN = 0, 1, 2


def normal(keys: Tensor, counter: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers (Box-Muller); keys int64 (B,) -> float32 (B, *shape)."""
    words, total = _words(keys, counter, shape, _NORMAL)
    draws = torch.empty(4, *words[0].shape, device=keys.device)
    for i in (0, 2):
        # Half a unit is added in float32, so that the logarithm's argument is never 0; it may be 1.
        radius = words[i].float().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
        angle = words[i + 1].float().mul_(2 * math.pi * 2.0**-32)
        torch.mul(radius, angle.cos(), out=draws[i])
        torch.mul(radius, angle.sin_(), out=draws[i + 1])
    return _rows(draws, total, shape)


def uniform(keys: Tensor, counter: int, shape: Sequence[int]) -> Tensor:
    """Uniform numbers in the open interval (0, 1), multiples of 2^-24; keys int64 (B,) -> float32 (B, *shape)."""
    words, total = _words(keys, counter, shape, _UNIFORM)
    draws = torch.stack([(word >> 9).float().add_(0.5).mul_(2.0**-23) for word in words])
    return _rows(draws, total, shape)


def rademacher(keys: Tensor, counter: int, shape: Sequence[int]) -> Tensor:
    """Independent signs, -1 or 1 with equal chance; keys int64 (B,) -> float32 (B, *shape)."""
    words, total = _words(keys, counter, shape, _SIGN)
    draws = torch.stack([(word >> 31).float().mul_(2.0).sub_(1.0) for word in words])
    return _rows(draws, total, shape)


def derive_key(seed: int | Tensor, *indices) -> int | Tensor:
    """Key for the numbers (seed, *indices), well mixed (splitmix64 chained); order matters.

    Integers give an int; where any is an int64 tensor or numpy array, they broadcast and give an int64 tensor.
    """
    key = torch.zeros((), dtype=torch.int64)
    for value in (seed, *indices):
        key = _mix(key ^ _integer(value))
    plain = all(isinstance(value, Integral) for value in (seed, *indices))
    return int(key) if plain else key


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Ten rounds of Philox4x32; four counter words and two key words (int64 below 2^32, broadcast) -> four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product wraps modulo 2^64, and its low word needs no mask before the xor of the next round.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_LOW)
        c2 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_LOW)
        c1, c3 = p1, p0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return [c0, c1 & _LOW, c2, c3 & _LOW]


def _words(keys: Tensor, counter: int, shape: Sequence[int], stream: int) -> tuple[list[Tensor], int]:
    """Four tensors (B, n) of random 32-bit words, 4 n >= prod(shape) numbers a row; and prod(shape)."""
    if keys.ndim != 1 or keys.dtype != torch.int64:
        raise ValueError(f"keys must be int64 of shape (B,), not {keys.dtype} of {tuple(keys.shape)}")
    total = math.prod(shape)
    # Every word is a full tensor, as the rounds update them in place.
    block = torch.arange(-(-total // 4), device=keys.device).expand(len(keys), -1)
    words = [block, *(torch.full_like(block, w) for w in (stream, counter & _LOW, (counter >> 32) & _LOW))]
    return philox(words, (keys[:, None] & _LOW, (keys[:, None] >> 32) & _LOW)), total


def _rows(draws: Tensor, total: int, shape: Sequence[int]) -> Tensor:
    """(4, B, n) -> (B, *shape)."""
    return draws.transpose(0, 1).flatten(1)[:, :total].reshape(-1, *shape)


def _integer(value) -> Tensor:
    """An int (taken modulo 2^64), numpy array or tensor as an int64 tensor."""
    if isinstance(value, Integral):
        value = _signed(int(value) % 2**64)
    return torch.as_tensor(value, dtype=torch.int64)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _mix(x: Tensor) -> Tensor:
    """One step of splitmix64 (Steele et al. 2014) on int64, with shifts that bring in zeros."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & (2**33 - 1))

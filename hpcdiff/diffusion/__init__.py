"""Diffusion: the SDE, denoisers, loss, counter-based noise and samplers; pure torch, no files, no ranks."""

from hpcdiff.diffusion.loss import denoising_loss
from hpcdiff.diffusion.noise import derive_key, normal, uniform
from hpcdiff.diffusion.precondition import EDMDenoiser, VEDenoiser
from hpcdiff.diffusion.sampler import SAMPLERS, nfe, sample
from hpcdiff.diffusion.sde import VESDE

__all__ = [
    "SAMPLERS",
    "EDMDenoiser",
    "VEDenoiser",
    "VESDE",
    "denoising_loss",
    "derive_key",
    "nfe",
    "normal",
    "sample",
    "uniform",
]

"""Diffusion: the SDE, denoisers, loss, counter-based noise, samplers, likelihood and guidance; pure torch, no files, no ranks."""

from hpcdiff.diffusion.guidance import channel_sum, guide
from hpcdiff.diffusion.likelihood import LogLikelihood, log_likelihood
from hpcdiff.diffusion.loss import denoising_loss
from hpcdiff.diffusion.noise import derive_key, normal, rademacher, uniform
from hpcdiff.diffusion.precondition import EDMDenoiser, VEDenoiser
from hpcdiff.diffusion.sampler import SAMPLERS, nfe, sample
from hpcdiff.diffusion.sde import VESDE

__all__ = [
    "SAMPLERS",
    "EDMDenoiser",
    "LogLikelihood",
    "VEDenoiser",
    "VESDE",
    "channel_sum",
    "denoising_loss",
    "derive_key",
    "guide",
    "log_likelihood",
    "nfe",
    "normal",
    "rademacher",
    "sample",
    "uniform",
]

"""Denoising score matching (Vincent 2011; Song et al. 2021; Karras et al. 2022)."""

from torch import Tensor, nn


def denoising_loss(
    denoiser: nn.Module,
    x0: Tensor,
    condition: Tensor | None,
    sigma: Tensor,
    z: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Weighted squared error of each image, the mean over pixels and channels of w (D(x_0 + sigma z) - x_0)^2.

    x0, z (B, C, H, W), condition (B, K, H, W), sigma (B,) -> (B,). The weight is `denoiser.weight(sigma)`, so that
    the loss is || z + f ||^2 for `VEDenoiser`; give it where the denoiser is wrapped (as by DistributedDataParallel).
    """
    if weight is None:
        weight = denoiser.weight(sigma)
    error = denoiser(x0 + sigma[:, None, None, None] * z, sigma, condition) - x0
    return (weight * error**2).flatten(1).mean(1)

"""The model card, `model/README.md`."""

from __future__ import annotations

from hpcdiff.model import Model
from hpcdiff.strict import to_yaml


def model_card(model: Model) -> str:
    """What the model is, what it was trained on, how to use it and what may not be expected; Markdown."""
    info, config = model.info, model.config
    fields = "\n".join(
        f"| `{f}` | {'input' if f in model.inputs else 'output'} | {info['units'][f] or 'dimensionless'} | {t.name} | {t.low:.6g} | {t.high:.6g} | {t.scale:.6g} |"
        for f, t in model.transforms.items()
    )
    arguments = ", ".join(f'"{f}": {f}' for f in model.inputs)
    pixel = info.get("pixel_mpc")
    size = f"{model.npix} x {model.npix} pixels" + (f" of {float(pixel):.4g} Mpc" if pixel else "")
    return f"""# Posterior maps of {", ".join(model.outputs)} given {", ".join(model.inputs)}

A conditional score-based diffusion model (`{config["network"]["name"]}`, preconditioning `{config["diffusion"]["precondition"]}`) made by hpcdiff.
Method: Hsu et al. 2025, *Reconstructing galaxy cluster mass maps using score-based generative modeling*.

| | |
|---|---|
| maps | {size} |
| parameters | {info["parameters"]} |
| training | {info["images"]} images seen, {info["training_views"]} views of the training split, {info["updates"]} steps, {info["skipped"]} skipped |
| map file | fingerprint {info["inputs"]["maps"]} |
| simulation | {info.get("engine") or "not said by the map file"} |

## Use

    import hpcdiff
    model = hpcdiff.load("model")
    out = model.sample({{{arguments}}}, samples=10, steps=36, seed=0)

Inputs are arrays ({model.npix}, {model.npix}) or (N, {model.npix}, {model.npix}) in the units below, centred on the cluster.

## Normalisation (bounds of the training split)

| field | role | units | transform | low | high | scale |
|---|---|---|---|---|---|---|
{fields}

## Limits

The posterior is that of the training simulation and its prior over mass; a cluster, a resolution or a noise level that is not in it gives
maps that look right and need not be. Look at `metrics.json` of the same run for bias and calibration before you use the spread.

## Config

```yaml
{to_yaml(config)}```
"""

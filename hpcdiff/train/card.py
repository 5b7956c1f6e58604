"""The model card, `model/README.md`."""

from __future__ import annotations

from hpcdiff.model import Model
from hpcdiff.strict import to_yaml

DIFFUSION = """A conditional score-based diffusion model (`{network}`, preconditioning `{precondition}`) made by hpcdiff.
Method: Hsu et al. 2025, *Reconstructing galaxy cluster mass maps using score-based generative modeling*."""
REGRESSION = """A mean-square regression (`{network}`, the network of the score model with an empty image at a fixed time) made by hpcdiff: it gives
the mean of the posterior and no samples, and is what the mean of a diffusion model's samples must beat."""
ONE = "There is one map a view and field, the mean: (N, 1, npix, npix). It is smoother than any cluster is, the less the inputs tell the more.\n"
LIMITS = """The posterior is that of the training simulation and its prior over mass; a cluster, a resolution or a noise level that is not in it gives
maps that look right and need not be. Look at `metrics.json` of the same run for bias and calibration before you use the spread."""
LIMITS_OF_THE_MEAN = """The mean is that of the training simulation and its prior over mass; a cluster, a resolution or a noise level that is not in it gives
maps that look right and need not be. It says nothing of its own uncertainty, and its small-scale power is too low by design."""


def model_card(model: Model) -> str:
    """What the model is, what it was trained on, how to use it and what may not be expected; Markdown."""
    info, config, train = model.info, model.config, model.config["train"]
    fields = "\n".join(
        f"| `{f}` | {'input' if f in model.inputs else 'output'} | {info['units'][f] or 'dimensionless'} | {t.name} | {t.low:.6g} | {t.high:.6g} | {t.scale:.6g} |"
        for f, t in model.transforms.items()
    )
    arguments = ", ".join(f'"{f}": {f}' for f in model.inputs)
    pixel = info.get("pixel_mpc")
    size = f"{model.npix} x {model.npix} pixels" + (f" of {float(pixel):.4g} Mpc" if pixel else "")
    maps = info["inputs"]["maps"].split("+")
    network, regression = config["network"]["name"], config["task"]["method"] == "regression"
    head = REGRESSION if regression else DIFFUSION
    return f"""# {"Mean" if regression else "Posterior"} maps of {", ".join(model.outputs)} given {", ".join(model.inputs)}

{head.format(network=network, precondition=config["diffusion"]["precondition"])}

| | |
|---|---|
| maps | {size} |
| parameters | {info["parameters"]} |
| training | {info["images"]} images seen, {info["training_views"]} views of the training split, {info["updates"]} steps, {info["skipped"]} skipped |
| trained with | engine `{train["engine"]}`, {train["precision"]}, batches of {train["batch_size"]}, learning rate {train["lr"]:g}, EMA {train["ema"]:g} |
| map file{"s" if len(maps) > 1 else ""} | fingerprint{"s" if len(maps) > 1 else ""} {", ".join(maps)} |
| observed as | {observed(config)} |
| simulation | {info.get("engine") or "not said by the map file"} |

## Use

    import hpcdiff
    model = hpcdiff.load("model")
    out = model.sample({{{arguments}}}{"" if regression else ", samples=10, steps=36, seed=0"})

Inputs are arrays ({model.npix}, {model.npix}) or (N, {model.npix}, {model.npix}) in the units below, centred on the cluster.
{ONE if regression else ""}
## Normalisation (by the training split: after its curve, `low` becomes 0 and `high` becomes 1)

| field | role | units | transform | low | high | scale |
|---|---|---|---|---|---|---|
{fields}

## Limits

{LIMITS_OF_THE_MEAN + bent(model) if regression else LIMITS}

## Config

```yaml
{to_yaml(config)}```
"""


def bent(model: Model) -> str:
    """What a regression's mean is where outputs have a curve: by Jensen's inequality for a concave one."""
    names = [f"`{f}` ({t.curve})" for f, t in model.transforms.items() if f in model.outputs and t.curve != "linear"]
    if not names:
        return ""
    return f"\nIt is the mean of the transformed values; turned back, it lies below the mean in the field's own units: {', '.join(names)}."


def observed(config: dict) -> str:
    """In words, what the observation model does to the inputs before the network sees them; sizes in physical Mpc."""
    units = {"sz": "uK", "compton_y": "", "xray": ""}
    said = []
    for field, model in config.get("observe", {}).items():
        if field not in config["task"]["inputs"]:
            continue
        parts = [f"{what} of {model[key]:g} Mpc FWHM" for key, what in (("beam", "beam"), ("psf", "PSF")) if model.get(key)]
        if model.get("noise"):
            parts.append(f"white noise of {model['noise']:g} {units[field]}".rstrip() + " a pixel")
        if model.get("exposure"):
            parts.append(f"Poisson counts, {model['exposure']:g} for each erg/s/cm^2, background {model.get('background', 0.0):g} a pixel")
        if parts:
            said.append(f"`{field}`: {', '.join(parts)}")
    return "; ".join(said) or "the maps themselves, without beam or noise"

"""The posterior of one observed cluster from FITS images: `hpcdiff sample CONFIG --sz FILE.fits --xray FILE.fits --out DIR`.

In Python: `observed.observe` (images to the model's grid), `posterior.infer` (samples and masses), `write.write` (files).
"""

"""Fits of real telescope images, one at a time: the lens galaxy's light, neighbours and the noise as it is."""

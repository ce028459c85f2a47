"""Steerable convolutions computed as few small products, on CPUs and GPUs."""

"""E(2)-steerable networks on plain tensors, and ResNet-18."""

"""A run, from its settings to its folder: train a network, go on training one, test one."""

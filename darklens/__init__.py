"""Finds the dark-matter substructure in strong-lens images with E(2)-steerable networks."""

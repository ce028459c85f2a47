"""Strong lenses: physics, recipes, simulated images."""

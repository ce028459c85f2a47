"""Strong lenses: physics, recipes, simulated images, smooth-lens fits."""

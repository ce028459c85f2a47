"""Strong-lens images: how light is bent, what a telescope makes of it, and how the images are drawn."""

"""Lens images: files, folders, checks, preprocessing, batches."""

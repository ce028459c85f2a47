"""A trained network with its classes and preprocessing, kept in one file."""

"""Figures of merit with their uncertainties."""

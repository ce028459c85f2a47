"""What did a run learn? Metrics, comparisons, explanations, sensitivity."""

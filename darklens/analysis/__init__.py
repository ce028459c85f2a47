"""What is done with trained networks: reports, predictions, comparisons, explanations, sensitivity."""

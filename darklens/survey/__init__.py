"""What does a network say of a survey? Read its catalogue, classify, write the rows."""

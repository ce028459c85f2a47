"""How much dark matter, and where? Posteriors of one lens and of a population."""

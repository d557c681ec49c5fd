"""`r3 bench`: the machine, the engine and the whole system, measured; what of it is shown, and what is kept."""

"""Speed, measured: what a machine can do, what the engine makes of it, and what each of its ways is worth."""

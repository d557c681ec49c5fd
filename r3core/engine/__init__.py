"""The engine: schedule, run, update; many trajectories at once."""

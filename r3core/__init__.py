"""R3's model, its refine loop and the engine that batches many of them. No web, no Redis, no pydantic."""

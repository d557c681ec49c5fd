"""Many prompts at once, and what came of them: `r3 batch` and `r3 compare`."""

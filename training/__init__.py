"""How the small model is made: its world of coloured shapes, its language, its training and its measurement."""

"""R3's model: a mixture-of-transformers decoder with a ViT to look and a VAE to draw, as pure functions of tensors."""

"""Pretrained backbones: pictures and texts to features."""

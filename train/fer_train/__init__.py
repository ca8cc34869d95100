"""Training: data augmentation, nets, recipes, the loop, checkpoints."""

"""Data-free distillation: images from a generator trained against the teacher, texts sampled from its vocabulary."""

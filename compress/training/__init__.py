"""Training: one loop for fine-tuning, distillation and recovery; losses, teacher signals, data augmentation."""

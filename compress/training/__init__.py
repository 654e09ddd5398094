"""Training: one loop for fine-tuning, distillation and recovery; losses, teachers' logits, augmentation."""

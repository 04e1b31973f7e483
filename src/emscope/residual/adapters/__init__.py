"""What LoRA weights say by themselves: features of BA, a classifier over a bank, and the scalars A·x."""

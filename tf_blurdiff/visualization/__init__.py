"""What a process or a model does, as numbers and pictures."""

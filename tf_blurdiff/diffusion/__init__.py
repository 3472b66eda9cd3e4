"""The mathematics: tensors in, tensors out; no model, no files. Other folders import its modules."""

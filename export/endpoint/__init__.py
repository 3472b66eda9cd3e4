"""Calls of a served model by REST or gRPC: addresses, inputs, images, load."""

"""The SavedModel for TF Serving, and its verification."""

from tf_blurdiff.serving.savedmodel import export_savedmodel
from tf_blurdiff.serving.verification import verify

__all__ = ["export_savedmodel", "verify"]

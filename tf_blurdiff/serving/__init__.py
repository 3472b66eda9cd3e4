"""The SavedModel for TF Serving, and its verification; the ONNX file and the small Keras file."""

from tf_blurdiff.serving.keras_file import export_keras
from tf_blurdiff.serving.onnx_file import export_onnx
from tf_blurdiff.serving.savedmodel import export_savedmodel
from tf_blurdiff.serving.verification import verify

__all__ = ["export_keras", "export_onnx", "export_savedmodel", "verify"]

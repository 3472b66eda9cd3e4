"""Scores of samples beside real images."""

from tf_blurdiff.evaluation.candidates import METRICS, SampleSettings, draw_samples, open_candidates
from tf_blurdiff.evaluation.classifier import train_classifier
from tf_blurdiff.evaluation.features import default_features, open_features
from tf_blurdiff.evaluation.provenance import describe_run
from tf_blurdiff.evaluation.reference import Reference
from tf_blurdiff.evaluation.report import as_text, write_report
from tf_blurdiff.evaluation.scores import BOUND, BoundSettings, score

__all__ = [
    "BOUND",
    "METRICS",
    "BoundSettings",
    "Reference",
    "SampleSettings",
    "as_text",
    "default_features",
    "describe_run",
    "draw_samples",
    "open_candidates",
    "open_features",
    "score",
    "train_classifier",
    "write_report",
]

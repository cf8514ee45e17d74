"""Measuring completed images: metrics, the protocol over a folder of photographs and masks, comparisons, reports."""

from inpaint.evaluation.measurement import Measurement
from inpaint.evaluation.methods import Method, named_method
from inpaint.evaluation.metrics import LPIPS, l1, psnr, ssim
from inpaint.evaluation.protocol import KINDS, Evaluation, Sample, evaluate, pair_samples

__all__ = [
    "KINDS",
    "LPIPS",
    "Evaluation",
    "Measurement",
    "Method",
    "Sample",
    "evaluate",
    "l1",
    "named_method",
    "pair_samples",
    "psnr",
    "ssim",
]

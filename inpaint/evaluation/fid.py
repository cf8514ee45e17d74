"""Fréchet Inception distance (Heusel et al. 2017) through torch-fidelity, with weights that the user has.

Only torch-fidelity's network, resizing and formula are used: never its download.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.weights import sha256

FEATURES = "2048"  # the pooled layer that FID is defined on, by torch-fidelity's name
ENOUGH_IMAGES = 2048  # with fewer images than features the covariances lack full rank and the distance is too large
KNOWN_PREFIX = "6726825d"  # first digits of the SHA-256 of weights-inception-2015-12-05-6726825d.pth


class FID:
    """Distance between two sets of images by the mean and covariance of their Inception features; lower is better.

    ``weights`` is torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth`` (the network of 2015 that published
    numbers are made with). Raises InpaintError if torch-fidelity is not there or the file is not such weights.
    ``path`` and ``sha256`` tell which file was read,
    ``known`` whether it is the published one.
    """

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        self.path = Path(weights)
        if not self.path.is_file():
            raise InpaintError(
                f"expected the weights of FID's Inception network, found no file {self.path}; give the path of "
                "weights-inception-2015-12-05-6726825d.pth (from torch-fidelity's releases), or leave FID out"
            )
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
            raise InpaintError(
                f"expected torch-fidelity for FID, it cannot be imported ({error}); pip install torch-fidelity"
            ) from error
        self.sha256 = sha256(self.path)
        self.known = self.sha256.startswith(KNOWN_PREFIX)
        try:
            # torch-fidelity unpickles the file; this refuses one that holds anything but tensors.
            torch.load(self.path, map_location="cpu", weights_only=True)
            self._network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [FEATURES], feature_extractor_weights_path=os.fspath(self.path)
            )
        except Exception as error:  # whatever a broken or foreign file makes of unpickling and of load_state_dict
            raise InpaintError(
                f"expected the weights of torch-fidelity's Inception network in {self.path}, got something else "
                f"({str(error).splitlines()[0]}); use weights-inception-2015-12-05-6726825d.pth"
            ) from error

    @torch.inference_mode()
    def features(self, image: Tensor) -> Tensor:
        """Features (2048,) float64 of an image (3, H, W), float in [0, 1] with 8-bit values."""
        pixels = (255 * image).round().to(torch.uint8)
        return self._network(pixels[None])[0][0].double()

    def distance(self, features: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
        """The distance between two sets of at least two features each. 2048 features take seconds to a minute."""
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

        first, second = (fid_features_to_statistics(torch.stack(list(rows)).cpu()) for rows in (features, truth))
        return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]

"""Statistics of segmented rock: volume fractions, interfacial areas, two-point correlation and their summary against the HR
images; and can a network tell SR from them, on the axis planes and at 45 degrees, and does SR vary with the noise.

Labels are 0..n-1 in a 2D image (y, x), a list of 2D images or a 3D volume (z, y, x), which may be memory-mapped: every function reads it in
blocks, so memory does not grow with the volume.
"""

from bundle.metrics.correlation import two_point
from bundle.metrics.diversity import seed_diversity, slice_diversity
from bundle.metrics.fractions import count_labels, volume_fractions
from bundle.metrics.interfaces import face_counts, interfacial_areas, phase_pairs
from bundle.metrics.oblique import oblique_reference, oblique_slices
from bundle.metrics.summary import lr_agreement, majority_downsample, mean_relative_error, statistic_names, statistics, summarise
from bundle.metrics.two_sample import real_reference, two_sample_auc

__all__ = [
    "count_labels",
    "face_counts",
    "interfacial_areas",
    "lr_agreement",
    "majority_downsample",
    "mean_relative_error",
    "oblique_reference",
    "oblique_slices",
    "phase_pairs",
    "real_reference",
    "seed_diversity",
    "slice_diversity",
    "statistic_names",
    "statistics",
    "summarise",
    "two_point",
    "two_sample_auc",
    "volume_fractions",
]

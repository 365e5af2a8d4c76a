"""Statistics of segmented rock: volume fractions, interfacial areas, two-point correlation and their summary against the HR images.

Labels are 0..n-1 in a 2D image (y, x), a list of 2D images or a 3D volume (z, y, x), which may be memory-mapped: every function reads it in
blocks, so memory does not grow with the volume.
"""

from bundle.metrics.correlation import two_point
from bundle.metrics.fractions import count_labels, volume_fractions
from bundle.metrics.interfaces import face_counts, interfacial_areas, phase_pairs
from bundle.metrics.summary import lr_agreement, majority_downsample, mean_relative_error, statistic_names, statistics, summarise

__all__ = [
    "count_labels",
    "face_counts",
    "interfacial_areas",
    "lr_agreement",
    "majority_downsample",
    "mean_relative_error",
    "phase_pairs",
    "statistic_names",
    "statistics",
    "summarise",
    "two_point",
    "volume_fractions",
]

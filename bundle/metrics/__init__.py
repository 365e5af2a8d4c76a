"""Statistics of segmented rock: volume fractions, interfacial areas, two-point correlation and their summary against the HR images; the morphology of
one phase; a volume against the truth where it is known, and the baselines that a super-resolution has to beat; do surfaces follow the voxels of the
scan, can a network tell SR from the images, on the axis planes and at 45 degrees, and does SR vary with the noise.

Labels are 0..n-1 in a 2D image (y, x), a list of 2D images or a 3D volume (z, y, x), which may be memory-mapped: the statistics are read in blocks,
so memory does not grow with the volume. Morphology takes the mask of a phase, a byte a voxel; what else it holds, each function says.
"""

from bundle.metrics.baselines import upsample_nearest, upsample_trilinear
from bundle.metrics.correlation import compare_curves, two_point
from bundle.metrics.diversity import seed_diversity
from bundle.metrics.fidelity import fidelity
from bundle.metrics.fractions import count_labels, mean_fractions, volume_fractions
from bundle.metrics.interfaces import face_counts, interfacial_areas, phase_pairs
from bundle.metrics.morphology import chord_lengths, connected_fraction, euler_number, half_path, lineal_path, pore_sizes, specific_surface
from bundle.metrics.oblique import oblique_reference, oblique_slices
from bundle.metrics.staircase import staircase
from bundle.metrics.summary import lr_agreement, majority_downsample, mean_relative_error, statistic_names, statistics, summarise
from bundle.metrics.truth import boundary_distance, confusion, voxel_agreement
from bundle.metrics.two_sample import real_reference, two_sample_auc

__all__ = [
    "boundary_distance",
    "chord_lengths",
    "compare_curves",
    "confusion",
    "connected_fraction",
    "count_labels",
    "euler_number",
    "face_counts",
    "fidelity",
    "half_path",
    "interfacial_areas",
    "lineal_path",
    "lr_agreement",
    "majority_downsample",
    "mean_fractions",
    "mean_relative_error",
    "oblique_reference",
    "oblique_slices",
    "phase_pairs",
    "pore_sizes",
    "real_reference",
    "seed_diversity",
    "specific_surface",
    "staircase",
    "statistic_names",
    "statistics",
    "summarise",
    "two_point",
    "two_sample_auc",
    "upsample_nearest",
    "upsample_trilinear",
    "volume_fractions",
    "voxel_agreement",
]

"""Physics of segmented rock: permeability, formation factor and elastic moduli of a volume of labels (z, y, x)."""

from bundle.physics.diffusion import FormationFactor, formation_factor
from bundle.physics.elasticity import MODULI, ElasticModuli, elastic_moduli
from bundle.physics.stokes import MILLIDARCY, Permeability, permeability
from bundle.physics.summary import properties

__all__ = [
    "MILLIDARCY",
    "MODULI",
    "ElasticModuli",
    "FormationFactor",
    "Permeability",
    "elastic_moduli",
    "formation_factor",
    "permeability",
    "properties",
]
